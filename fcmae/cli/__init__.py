"""What the commands share: parsers and keyword arguments from settings dataclasses, exit status, devices."""
