"""Analyses of trained networks: feature collapse, kNN, linear probe, feature maps, reconstructions."""
