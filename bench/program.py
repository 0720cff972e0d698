"""How a benchmark that is started by ``python -m`` shows its errors."""

from __future__ import annotations

import sys
from collections.abc import Callable

import typer

from maris_fast.errors import MarisError
from maris_fast.system.terminal import say


def run_program(main: Callable[..., None]) -> None:
    """Run ``main`` with the command line's arguments; an error that the user can act on is one line."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(main)
    try:
        app()
    except (MarisError, OSError) as error:
        say(f"error: {error}", err=True)
        sys.exit(2)
