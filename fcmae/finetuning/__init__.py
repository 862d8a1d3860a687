"""Fine-tuning: labels, augmentation, layer decay, the network with its classifier, and its scores."""
