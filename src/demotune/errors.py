"""The one exception that the command line shows without a traceback."""


class DemotuneError(Exception):
    """Something the user can mend: the message says what happened, the value, and the fix."""
