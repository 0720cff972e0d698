"""``report``: the results of training runs as a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from maris_fast.cli.options import Device
from maris_fast.system.terminal import say


def report(
    runs: Annotated[
        list[Path],
        typer.Argument(help="folders of runs or of `maris-fast ablate`; several are shown side by side"),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="HTML file; default: report.html in the run's folder, in the current folder for several runs"
        ),
    ] = None,
    cache: Annotated[
        list[str] | None,
        typer.Option(
            help="cache to run the models on, for all runs or one for each; default: each run's data.cache"
        ),
    ] = None,
    images: Annotated[
        int, typer.Option(min=1, help="largest number of validation images to run the models on")
    ] = 64,
    draw: Annotated[
        bool, typer.Option(help="run the models, to show attention, successes and failures")
    ] = True,
    device: Device = "auto",
) -> None:
    """Write scores, curves, pictures, settings and throughput of runs as one self-contained HTML page."""
    from maris_fast.config import cache_place
    from maris_fast.reports import Drawing, write_report
    from maris_fast.system.files import writing
    from maris_fast.train.run_files import REPORT

    page = out or (runs[0] / REPORT if len(runs) == 1 else Path(REPORT))
    caches = tuple(cache_place(one) for one in cache or ())
    with writing(page, "--out"):
        write_report(runs, page, Drawing(caches, images, device) if draw else None)
    say(f"report: {page}")
