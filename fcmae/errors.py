"""Errors that the user can fix: one clear line, no traceback on the command line."""


class UserError(ValueError):
    """Names the file or the flag, the value, and what would be accepted."""
