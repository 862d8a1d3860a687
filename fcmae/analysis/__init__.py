"""What a network has learned: feature collapse, nearest neighbors, linear probe, and their pictures."""
