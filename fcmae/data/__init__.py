"""Images: sources, decoding, crops, draws, the sample stream, labeled sets, normalization."""
