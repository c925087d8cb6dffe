"""The one exception for what the user can fix; see `messages` for how the command line shows it and others."""


class DemotuneError(Exception):
    """Something the user can fix: the message says what happened, the value, and the fix."""


def first_line(error: BaseException) -> str:
    """The first line of an error's message: libraries add pages of advice."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def one_line(error: BaseException, longest: int = 300) -> str:
    """Kind and text of another library's error on one line, for a message."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:longest]


def shown_error(error: BaseException) -> str:
    """Kind of an error and the first line of what it says."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:200]
