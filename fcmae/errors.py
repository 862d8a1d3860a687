"""Errors that are the user's to mend: one clear line, no traceback on the command line."""


class UserError(ValueError):
    """Names the file or the flag, the value, and what would be accepted."""
