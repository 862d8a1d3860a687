"""Comparisons, one command each: ``python -m benchmarks.<name>``."""
