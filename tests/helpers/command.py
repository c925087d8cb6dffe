"""The command line, called in this process."""

from typer.testing import CliRunner

from demotune.cli.main import app


def call(*arguments: str, columns: int = 160) -> tuple[int, str]:
    """The exit code, and what the command wrote on a plain terminal of so many columns; what it raised is raised."""
    shows = {"COLUMNS": str(columns), "NO_COLOR": "1", "TERM": "dumb"}
    result = CliRunner().invoke(app, list(arguments), env=shows)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output
