"""Training: setup, resume, the loop, the optimizer, the monitor, the console."""
