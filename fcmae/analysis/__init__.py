"""What a network has learned: feature collapse, nearest neighbours, linear probe, and their pictures."""
