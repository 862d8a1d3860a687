"""Training: setup, resume, the batch, the loop, the optimizer, the monitor, the console."""
