"""What a run folder holds: layout, checkpoints, metrics, and reading it."""
