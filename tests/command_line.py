"""Run the command line in this process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from maris_fast.cli import app


def maris_fast(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def said(result: Result) -> str:
    """Standard output and standard error, as one line."""
    return " ".join((result.output + (result.stderr or "")).split())
