"""The ``solov2`` command within this process."""

from typer.testing import CliRunner

from service.cli import app


def run(*arguments: object) -> tuple[int, str]:
    """Its exit code, and all that it printed."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, result.output
