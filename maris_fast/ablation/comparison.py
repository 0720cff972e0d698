"""Rows compared with the paper and with "Ours": means and spreads over seeds, differences per seed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from maris_fast.ablation.paper import (
    ABLATION_TABLES,
    ABLATIONS_ON,
    CAPTIONS,
    METRICS,
    OURS,
    VARIANTS,
    Variant,
)
from maris_fast.ablation.record import DONE, Record
from maris_fast.evaluation.scores_file import DataSplit

HEAD = ("Settings", "Methods", *METRICS[:-1], "IoU", "IoU to Ours")
NONE = "–"

Scores = Mapping[str, Any]
"""Scores of one run, 0 to 1, by the names of ``maris_fast.scoring``."""


@dataclass(frozen=True)
class MeasuredScores:
    """A row's runs. ``scores``: by metric, mean and sample standard deviation in percent (None for one run).

    ``differences``: by seed, oIoU minus that of "Ours" with the same seed, in percentage points.
    """

    seeds: tuple[int, ...]
    scores: dict[str, tuple[float, float | None]]
    differences: dict[int, float]

    @classmethod
    def of(cls, runs: Mapping[int, Scores], ours: Mapping[int, Scores]) -> MeasuredScores:
        """``runs`` and ``ours``: scores by seed; at least one run."""
        return cls(
            tuple(runs),
            {name: spread([100 * run[name] for run in runs.values()]) for name in METRICS},
            {seed: 100 * (runs[seed]["oIoU"] - ours[seed]["oIoU"]) for seed in runs if seed in ours},
        )


@dataclass(frozen=True)
class ComparedRow:
    """A row of a table: the variant, what the paper prints, and what was measured, if anything."""

    variant: Variant
    measured: MeasuredScores | None

    def cells(self) -> list[tuple[str, ...]]:
        """Table rows under ``HEAD``: what the paper prints, and what was measured, if anything."""
        variant, here = self.variant, self.measured
        number = f"#{variant.number}" if variant.number is not None else ""
        ours, iou = VARIANTS[OURS].scores[-1], variant.scores[-1]
        away = f"{iou - ours:+.2f}" if iou is not None and ours is not None and variant.name != OURS else NONE
        rows = [(number, variant.title, *(shown(value) for value in variant.scores), away)]
        if here is not None:
            seeds = f"{len(here.seeds)} seeds" if len(here.seeds) > 1 else f"seed {here.seeds[0]}"
            differences = shown_differences(here.differences) if variant.name != OURS else NONE
            rows.append(
                ("", f"here, {seeds}", *(shown(*value) for value in here.scores.values()), differences)
            )
        return rows


@dataclass(frozen=True)
class Section:
    """A table of the paper, or the rows that are in none of its tables."""

    title: str
    lines: tuple[ComparedRow, ...]

    @property
    def measured(self) -> bool:
        return any(line.measured for line in self.lines)

    def cells(self) -> list[tuple[str, ...]]:
        """Table rows under ``HEAD``; measured ones have no number, and their method begins with "here"."""
        return [row for line in self.lines for row in line.cells()]


def sections(rows: Mapping[str, Mapping[int, Scores]]) -> list[Section]:
    """Those of Tables 2-5 that have measured rows, then this project's other measured variants.

    ``rows``: by name of the variant, scores by seed.
    """
    measured = {name for name, scores in rows.items() if scores}
    found = [
        table_section(table, rows)
        for table, names in ABLATION_TABLES.items()
        if measured & set(names) - {OURS} or (table == 2 and measured == {OURS})
    ]
    placed = {name for names in ABLATION_TABLES.values() for name in names}
    others = [name for name in VARIANTS if name in measured and name not in placed]
    if others:
        found.append(_section("Not in Tables 2-5.", [*others, OURS], rows))
    return found


def table_section(table: int, rows: Mapping[str, Mapping[int, Scores]]) -> Section:
    """One of Tables 2-5, with or without measured rows."""
    return _section(f"Table {table}. {CAPTIONS[table]}", ABLATION_TABLES[table], rows)


def spread(values: Sequence[float]) -> tuple[float, float | None]:
    """Mean and sample standard deviation; None for a single value."""
    return mean(values), stdev(values) if len(values) > 1 else None


def shown(value: float | None, deviation: float | None = None) -> str:
    """Percent as the paper prints it, ``75.20`` or ``75.20 ± 0.31``; a dash for None."""
    if value is None:
        return NONE
    return f"{value:.2f}" if deviation is None else f"{value:.2f} ± {deviation:.2f}"


def shown_differences(differences: Mapping[int, float]) -> str:
    """Mean, spread and the difference of each seed: ``-1.10 ± 0.20 (-1.30, -0.90)``."""
    values = list(differences.values())
    if not values:
        return NONE
    middle, deviation = spread(values)
    if deviation is None:
        return f"{middle:+.2f}"
    return f"{middle:+.2f} ± {deviation:.2f} ({', '.join(f'{value:+.2f}' for value in values)})"


def _section(title: str, names: Iterable[str], rows: Mapping[str, Mapping[int, Scores]]) -> Section:
    ours = rows.get(OURS, {})
    lines = (
        ComparedRow(VARIANTS[name], MeasuredScores.of(rows[name], ours) if rows.get(name) else None)
        for name in names
    )
    return Section(title, tuple(lines))


def verdicts(record: Record) -> list[str]:
    """A line for each row with several seeds, favourable or not: in how many of them "Ours" is ahead."""
    ours = record.scores(OURS)
    told = []
    for name, variant in VARIANTS.items():
        differences = MeasuredScores.of(runs, ours).differences if (runs := record.scores(name)) else {}
        if name == OURS or len(differences) < 2:
            continue
        ahead = sum(difference < 0 for difference in differences.values())
        told.append(
            f"Ours is ahead of {variant.title} in {ahead} of {len(differences)} seeds; {variant.title} minus "
            f"Ours: {shown_differences(differences)} points of IoU"
        )
    return told


def conditions_told(record: Record) -> list[str]:
    """Lines about "here": data, training, device, commit, and a caution if the data are not the paper's."""
    conditions, data = record.conditions, record.conditions["data"]
    where = DataSplit(data["name"], data["split_by"], conditions["split"])
    done = [run for run in record.runs.values() if run["state"] == DONE]
    lines = [
        f"here: {where}, {conditions['images']:,} images, {conditions['expressions']:,} expressions, at the "
        "images' original size; IoU is oIoU"
    ]
    if done:
        steps = " to ".join(f"{count:,}" for count in sorted({run["steps"] for run in done}))
        minutes = sum(run["train_seconds"] for run in done) / 60
        lines.append(
            f"{len(done)} runs of {steps} steps on {conditions['train_images']:,} images, {minutes:.1f} "
            f"minutes of training in all, started {record.started[:10]}"
        )
    if where != ABLATIONS_ON and record.variants.keys() & VARIANTS.keys():
        lines.append(f"the paper's numbers are of {ABLATIONS_ON}: compare differences to Ours, not levels")
    if conditions["random_encoders"]:
        lines.append(f"features of random encoders ({' and '.join(conditions['random_encoders'])})")
    for made in record.environments:
        lines.append(
            f"{made['device']}, {made['processor_cores']} cores, ranks of a run: {made['ranks']}, "
            f"torch {made['packages']['torch']}, commit {_commit(made['commit'])}"
        )
    return lines


def _commit(commit: str | None) -> str:
    digits, dash, dirty = str(commit).partition("-")
    return f"{digits[:12]}{dash}{dirty}"
