"""``report``: what training runs did, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="run folders, or folders of `maris-fast ablate`; several stand side by side"),
    ],
    out: Annotated[
        Path | None, typer.Option(help="the page; report.html in the run's folder, or here for several")
    ] = None,
) -> None:
    """Write curves, scores, pictures, settings and speed of runs as one HTML page that needs no network."""
    from maris_fast.errors import InputError
    from maris_fast.train.reporting import REPORT, write_report

    page = out or (runs[0] / REPORT if len(runs) == 1 else Path(REPORT))
    try:
        write_report(runs, page)
    except OSError as error:
        raise InputError(f"{page} cannot be written: {error}; name another place with --out") from error
    typer.echo(f"report: {page}")
