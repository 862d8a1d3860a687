"""Readers of image files: one module per kind of file, then channels and values. Each returns the file's own numbers."""
