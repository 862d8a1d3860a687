"""Side-by-side comparisons, each one command: ``python -m benchmarks.<name>``."""
