"""All rows of an ablation, the paper's and the user's own, best first."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import Any

from maris_fast.ablation.comparison import NONE, MeasuredScores, shown, shown_differences
from maris_fast.ablation.paper import OURS, VARIANTS
from maris_fast.ablation.record import Record
from maris_fast.errors import InputError

CAPTION = "All rows: the first is what the others are compared with, then the best first."
CHANGES = "Changes"
SHOWN = ("Pr@70", "oIoU")


@dataclass(frozen=True)
class RankedRow:
    """A row, the settings that it changes (flat), and its scores.

    ``measured.differences`` are relative to the base. ``kinds``: by kind of expression, mean oIoU in percent.
    """

    title: str
    changes: Mapping[str, Any]
    measured: MeasuredScores
    kinds: Mapping[str, float]

    @property
    def settings(self) -> str:
        """The changes in one line, ``heads: 8``; a dash if there are none."""
        return (
            ", ".join(f"{key.removeprefix('model.')}: {value}" for key, value in self.changes.items()) or NONE
        )


@dataclass(frozen=True)
class Ranking:
    """First the row that the others are compared with, then the others by mean oIoU."""

    rows: tuple[RankedRow, ...]

    @property
    def head(self) -> tuple[str, ...]:
        return ("Row", CHANGES, "Seeds", *SHOWN, f"minus {self.rows[0].title}")

    def cells(self) -> list[tuple[str, ...]]:
        return [
            (
                row.title,
                row.settings,
                str(len(row.measured.seeds)),
                *(shown(*row.measured.scores[metric]) for metric in SHOWN),
                shown_differences(row.measured.differences),
            )
            for row in self.rows
        ]


def has_own_rows(record: Record) -> bool:
    """Whether a row was measured that is not in ``VARIANTS``."""
    return any(record.scores(name) for name in record.variants.keys() - VARIANTS.keys())


def base_of(record: Record) -> str | None:
    """The row to compare with: "Ours", else one without changes, else the first; None: none is done."""
    measured = [name for name in record.variants if record.scores(name)]
    unchanged = [name for name in measured if not record.variants[name]["changes"]]
    return next(iter([OURS] if OURS in measured else unchanged or measured), None)


def ranking(record: Record) -> Ranking:
    """Ranking of the rows that have a finished run.

    Raises:
        InputError: no row has one.
    """
    base = base_of(record)
    if base is None:
        raise InputError(f"none of the rows {', '.join(record.variants)} has a finished run")
    rows = [_row(record, name, base) for name in record.variants if name != base and record.scores(name)]
    rows.sort(key=lambda row: row.measured.scores["oIoU"][0], reverse=True)
    return Ranking((_row(record, base, None), *rows))


def _row(record: Record, name: str, base: str | None) -> RankedRow:
    runs = record.scores(name)
    kinds = [run.get("kinds", {}) for run in runs.values()]
    variant = record.variants[name]
    return RankedRow(
        variant["title"],
        variant["changes"],
        MeasuredScores.of(runs, record.scores(base) if base else {}),
        {kind: 100 * mean(one[kind]["oIoU"] for one in kinds) for kind in kinds[0]},
    )
