"""The command line: parsers, exit status, devices."""
