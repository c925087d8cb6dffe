"""The one exception for what the user can mend; see `messages` for how the command line shows it and others."""


class DemotuneError(Exception):
    """Something the user can mend: the message says what happened, the value, and the fix."""
