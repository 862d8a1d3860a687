"""Images in .tar and .zip archives, read where they lie by an index of their members that is made once."""
