"""Errors that are part of the interface."""


class UserError(Exception):
    """Something the user can mend; the message is one sentence that names the thing and the remedy.

    `main` prints the message without a traceback and exits with code 2.
    """


class DataError(UserError):
    """Data that is missing, unreadable or not what it should be."""
