"""Tables of runs: rows of text, ready for a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from maris_fast.ablation.comparison import NONE
from maris_fast.config import PRIVATE
from maris_fast.reports.run_data import RunData
from maris_fast.scoring.tables import SCORES


@dataclass(frozen=True)
class RunTable:
    """``head`` names the columns; the first column names the rows."""

    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numbers: bool = True
    """Whether the cells are numbers, which are right-aligned."""


def scores(runs: Sequence[RunData]) -> RunTable:
    """The best evaluation of each run, one row per run."""
    rows = []
    for run in runs:
        best = run.best
        if best is None:
            rows.append((run.name, *(NONE for _ in range(2 + len(SCORES)))))
        else:
            numbers = (f"{best.get(name, 0):.3f}" for name in SCORES)
            rows.append((run.name, *numbers, f"{best['expressions']:,}", f"{best['step']:,}"))
    return RunTable(("run", *SCORES, "expressions", "at step"), tuple(rows))


def kinds(run: RunData) -> RunTable | None:
    """The best evaluation by kind of expression; None if no kinds are named."""
    found = run.best["kinds"] if run.best else {}
    rows = (
        (kind, *(f"{row[name]:.3f}" for name in SCORES), f"{row['expressions']:,}")
        for kind, row in found.items()
    )
    return RunTable(("kind", *SCORES, "expressions"), tuple(rows)) if found else None


def speed(runs: Sequence[RunData]) -> RunTable:
    """Medians over the records, peak memory and total time."""
    rows: dict[str, Callable[[RunData], str]] = {
        "expressions a second": lambda run: _number(run.typical("expressions_per_s"), ",.0f"),
        "images a second": lambda run: _number(run.typical("images_per_s"), ",.0f"),
        "waiting for data": lambda run: _number(run.typical("data_wait_share"), ".1%"),
        "features read": lambda run: _number(run.typical("gb_per_s"), ".3g", " GB/s"),
        "products computed": lambda run: _number(run.typical("tflops_per_s"), ".3g", " TFLOP/s"),
        "MFU": lambda run: _number(run.typical("mfu"), ".1%", f" of {_peak(run)} a device"),
        "peak memory": lambda run: _number(_memory_gib(run), ".1f", " GiB"),
        "time of training": duration,
    }
    return _by_run(runs, {name: [cell(run) for run in runs] for name, cell in rows.items()})


def settings(runs: Sequence[RunData]) -> RunTable:
    """All settings but the private one: pages are passed on."""
    private = ".".join(PRIVATE)
    return _values(
        runs, [{name: value for name, value in run.settings.items() if name != private} for run in runs]
    )


def differing_settings(runs: Sequence[RunData]) -> RunTable | None:
    """The settings in which the runs differ; None if there are none, or only one run."""
    whole = settings(runs)
    rows = tuple(row for row in whole.rows if len(set(row[1:])) > 1)
    return RunTable(whole.head, rows, numbers=False) if rows else None


def environment(runs: Sequence[RunData]) -> RunTable:
    return _values(runs, [run.environment for run in runs])


def duration(run: RunData) -> str:
    """Time of training in minutes, or in hours from one hour on."""
    seconds = run.seconds
    if seconds is None or seconds >= 3600:
        return _number(seconds and seconds / 3600, ".2f", " hours")
    return _number(seconds / 60, ".1f", " minutes")


def _values(runs: Sequence[RunData], values: Sequence[dict[str, Any]]) -> RunTable:
    names = dict.fromkeys(name for one in values for name in one)
    cells = {name: [_text(one.get(name)) for one in values] for name in names}
    return _by_run(runs, cells, numbers=False)


def _by_run(runs: Sequence[RunData], cells: dict[str, list[str]], numbers: bool = True) -> RunTable:
    head = ("", *(run.name for run in runs))
    return RunTable(head, tuple((name, *row) for name, row in cells.items()), numbers)


def _text(value: Any) -> str:
    return NONE if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _number(value: float | None, form: str, unit: str = "") -> str:
    return NONE if value is None else f"{value:{form}}{unit}"


def _peak(run: RunData) -> str:
    return f"{run.typical('peak_tflops') or 0:g} TFLOP/s"


def _memory_gib(run: RunData) -> float | None:
    return max((one["memory_mb"] for one in run.steps), default=0) / 1024 if run.steps else None
