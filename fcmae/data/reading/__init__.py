"""Readers of image files, one module per kind of file; each returns the file's own numbers. Then channels, values."""
