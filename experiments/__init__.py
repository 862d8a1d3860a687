"""Studies whose results are in docs/experiments/."""
