"""Shared by the commands: parsers and keyword arguments built from settings dataclasses, exit status, devices."""
