"""Run folders: layout, checkpoints, metrics, and reading them back."""
