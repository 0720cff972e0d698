"""``report``: what training runs did, as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from maris_fast.system.terminal import say


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="run folders, or folders of `maris-fast ablate`; several stand side by side"),
    ],
    out: Annotated[
        Path | None, typer.Option(help="the page; report.html in the run's folder, or here for several")
    ] = None,
    cache: Annotated[
        list[Path] | None,
        typer.Option(help="features to run the models on, for all or one a run; else each run's data.cache"),
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, help="of the validation split at most, to run the models on")
    ] = 64,
    draw: Annotated[bool, typer.Option(help="run the models, for attention, successes and failures")] = True,
    device: Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="where the models run")] = "auto",
) -> None:
    """Write scores, curves, pictures, settings and speed of runs as one HTML page that needs no network."""
    from maris_fast.reports import Drawing, write_report
    from maris_fast.system.files import writing
    from maris_fast.train.run_files import REPORT

    page = out or (runs[0] / REPORT if len(runs) == 1 else Path(REPORT))
    with writing(page, "--out"):
        write_report(runs, page, Drawing(tuple(cache or ()), images, device) if draw else None)
    say(f"report: {page}")
