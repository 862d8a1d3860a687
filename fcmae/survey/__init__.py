"""What a set of images is like, measured before training: the work behind ``fcmae stats``."""
