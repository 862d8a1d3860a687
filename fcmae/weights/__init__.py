"""Weights in and out: every format they come in, read, converted and written."""
