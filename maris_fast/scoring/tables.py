"""Scores as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.text import Text

from maris_fast.scoring.protocols import PROTOCOLS, THRESHOLDS, precision_name
from maris_fast.scoring.summary import FEW
from maris_fast.system.terminal import Table

SCORES = ("oIoU", "mIoU", *map(precision_name, THRESHOLDS))

Summary = Mapping[str, Any]


def of_conditions(results: Mapping[str, Summary], title: str) -> Table:
    """Each condition with its kinds of expression and the intervals of its scores."""
    grid = _grid(title, "expressions")
    for condition, summary in results.items():
        grid.add_row(condition, *_row(summary))
        for end, name in enumerate(("95% from", "95% to") if summary.get("intervals") else ()):
            ends = (summary["intervals"][score][end] for score in SCORES)
            grid.add_row(f"  {name}", "", *(f"{number:.3f}" for number in ends))
        for kind, row in summary.get("kinds", {}).items():
            grid.add_row(f"  {kind}", *_row(row))
        grid.add_section()
    return grid


def of_protocols(summary: Summary, title: str) -> Table:
    """The same logits under each protocol, and the largest minus the smallest number of each column.

    Scores that the peer's script does not print are in brackets. The spread is over printed scores of scripts
    that count every sentence: a different sample is not a different way of scoring.
    """
    grid = _grid(title, "protocol")
    for name, row in summary["protocols"].items():
        printed = PROTOCOLS[name].prints.values()
        cells = (f"{row[score]:.3f}" if score in printed else f"({row[score]:.3f})" for score in SCORES)
        grid.add_row(name, f"{row['expressions']:,}", *cells)
    grid.add_section()
    grid.add_row("spread", "", *(f"{spread(summary, score):.3f}" for score in SCORES))
    return grid


def spread(summary: Summary, score: str) -> float:
    """Largest minus smallest value of a score, over the scripts that print it and count every sentence."""
    printed = [
        row[score]
        for name, row in summary["protocols"].items()
        if score in PROTOCOLS[name].prints.values() and PROTOCOLS[name].sentences == "all"
    ]
    return max(printed) - min(printed)


def of_prints(summary: Summary, title: str) -> Table:
    """The scores that each script would have printed, under its own names."""
    grid = Table("protocol", "its script prints", title=title, box=SIMPLE_HEAD)
    for name, row in summary["protocols"].items():
        grid.add_row(name, "  ".join(f"{theirs} {score:.4f}" for theirs, score in row["prints"].items()))
    return grid


def of_breakdown(summary: Summary, title: str) -> Iterator[Table]:
    """One table per dimension; groups of fewer than ``FEW`` expressions are marked and dimmed."""
    for dimension, groups in summary.get("breakdown", {}).items():
        grid = _grid(f"{title}, by {dimension}", dimension)
        for name, row in groups.items():
            marked = Text(f"{name} *", "dim") if row["few"] else name
            grid.add_row(marked, *_row(row), style="dim" if row["few"] else None)
        if any(row["few"] for row in groups.values()):
            grid.caption = f"* fewer than {FEW} expressions"
        yield grid


def _grid(title: str, first: str) -> Table:
    # Nine columns in 80 characters, brackets included.
    grid = Table(title=title, box=SIMPLE_HEAD, padding=0)
    grid.add_column(first)
    for name in ("number", *SCORES):
        grid.add_column(name, justify="right", no_wrap=True)
    return grid


def _row(scores: Summary) -> list[str]:
    numbers = (f"{scores[score]:.3f}" if score in scores else "–" for score in SCORES)
    return [f"{scores['expressions']:,}", *numbers]
