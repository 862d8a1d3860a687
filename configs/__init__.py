"""Recipes, one YAML file each; ``--config`` takes their names."""
