"""Successes and failures of runs, side by side, as a page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from maris_fast.reports.chosen_examples import Chosen, Example, examples_sheet
from maris_fast.reports.data_uris import small_png_uri


@dataclass(frozen=True)
class Sheet:
    title: str
    alt: str
    uri: str


@dataclass(frozen=True)
class ExamplesOfRuns:
    """``images``: how many were looked at; ``notes``: what had to be done without."""

    names: list[str]
    split: str
    images: int
    sheets: list[Sheet]
    notes: list[str]


def examples_of_runs(
    names: Sequence[str], split: str, images: int, chosen: Chosen, image_root: Path
) -> ExamplesOfRuns:
    """Sheets of what was chosen; one that would be empty is left out."""
    notes: list[str] = []
    parts: dict[str, list[Example]] = {
        "Successes": chosen.successes,
        "Failures": chosen.failures,
        "From the worst to the best, at even steps": chosen.steps,
    }
    sheets = []
    for title, some in parts.items():
        if some:
            picture = examples_sheet(some, names, image_root, notes.append)
            sheets.append(Sheet(title, _alt(title, some, names), small_png_uri(picture)))
    return ExamplesOfRuns(list(names), split, images, sheets, notes[:1])


def _alt(title: str, some: Sequence[Example], names: Sequence[str]) -> str:
    rows = (
        f"{one.sample.text}: "
        + ", ".join(f"{name} {iou:.2f}" for name, iou in zip(names, one.ious, strict=True))
        for one in some
    )
    return f"{title}, IoU by model. {'; '.join(rows)}"
