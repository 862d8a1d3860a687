"""Makes shards for training from a set of images: the work behind ``fcmae pack``."""
