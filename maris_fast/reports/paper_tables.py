"""Tables 1-6 with the runs that fit their rows: the paper's numbers, and ours below or beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from maris_fast.ablation import paper
from maris_fast.ablation.comparison import (
    HEAD,
    NONE,
    Scores,
    Section,
    sections,
    shown,
    spread,
    table_section,
)
from maris_fast.ablation.paper import Variant
from maris_fast.config import READING, ModelSettings, flat
from maris_fast.evaluation.scores_file import DataSplit, outdated_score_files, read_scores
from maris_fast.reports.run_data import RunData

# These set how a model is computed, not which model it is.
NO_PART = ("model.mutual_attention_impl", "model.attention_impl", "model.cross_attention_impl")
# The configurations of MARIS itself. On data other than the paper's, any of these alone leaves its tables
# nothing to compare.
MARIS = {
    paper.OURS: "here",
    paper.WITHOUT_GATE: "here, no gate",
    **{name: f"here, {paper.VARIANTS[name].title}" for name in ("sums", "as_printed")},
}
# With these, MARIS' decoder is still MARIS'; fragments set them only for SAM's, which has its own.
NO_ROW = ("model.decoder_norm", "model.decoder_positions", "model.decoder_feed_forward")
# The fast preset sets it for all rows: a run that matches no row with it is placed without it, with a note.
PRESET = ("model.decoder_self_attention",)


@dataclass(frozen=True)
class PaperTable:
    """``rows``: cells, and whether they were measured here. ``filled``: whether any was."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[tuple[str, ...], bool], ...]
    notes: tuple[str, ...] = ()

    @property
    def filled(self) -> bool:
        return any(measured for _, measured in self.rows)


@dataclass(frozen=True)
class Placed:
    """A run that is a row of the paper, with its training data and its scores, 0 to 1, by split."""

    run: RunData
    variant: Variant
    trained_on: tuple[str, str]
    scores: Mapping[DataSplit, Scores]

    @property
    def seed(self) -> int:
        return int(self.run.settings.get("run.seed", 0))


Counted = dict[tuple[tuple[str, str], DataSplit, str], dict[int, Placed]]
"""The runs of a row by training data, split scored on, and variant; by seed."""


def paper_tables(runs: Sequence[RunData]) -> list[PaperTable]:
    """Tables 1-6, and Tables 2-5 again for each other data set on which their rows were trained."""
    placed = [one for run in runs if (one := place(run)) is not None]
    counted, _ = _count(placed)
    rows_at = _by_place(counted)
    on_papers = rows_at.pop(paper.ABLATIONS_ON, {})
    tables = [_table_1(counted)]
    tables += [_ablation(table_section(table, on_papers)) for table in paper.ABLATION_TABLES]
    tables.append(_table_6(counted))
    for where, rows in rows_at.items():
        if len(rows) > 1 or rows.keys() - MARIS.keys():
            note = f"The paper's numbers are of {paper.ABLATIONS_ON}: compare differences, not levels."
            tables += [
                _ablation(section, f" On {where}, not the paper's data.", note) for section in sections(rows)
            ]
    return tables


def placing(runs: Sequence[RunData]) -> list[str]:
    """Sentences that say which run is which row, and which runs are no row, and why."""
    placed = [one for run in runs if (one := place(run)) is not None]
    names: dict[str, list[str]] = {}
    for one in placed:
        others = ", ".join(f"{key} = {value}" for key, value in _unlike_the_row(one).items())
        on = " ".join(one.trained_on)
        names.setdefault(f"{one.variant.title}, on {on}{f' ({others})' if others else ''}", []).append(
            one.run.name
        )
    told = [f"{row}: {', '.join(found)}." for row, found in names.items()]
    told += [f"In no table: {run.name}, {why}." for run in runs if (why := _why_not(run))]
    told += [
        f"Left out: {one.path.name} of {run.name}, which scores other weights than its {one.weights}."
        for run in runs
        for one in outdated_score_files(run.folder)
    ]
    return [*told, *_count(placed)[1]]


def place(run: RunData) -> Placed | None:
    """The row of the paper that the run's model is; None if it is none or the data set is unknown."""
    variant, data = variant_of(run), _trained_on(run)
    if variant is None or data is None:
        return None
    scores: dict[DataSplit, Scores] = {}
    if run.best is not None:
        scores[DataSplit(*data, str(run.settings.get("data.val_split", "val")))] = run.best
    return Placed(run, variant, data, {**scores, **read_scores(run.folder)})


def variant_of(run: RunData) -> Variant | None:
    """The variant that equals the run in all settings that define variants; other settings are free."""
    defaults = _model_defaults()
    for free in ((), PRESET):
        here = _identity({**defaults, **run.settings}, free)
        for variant in paper.VARIANTS.values():
            if here == _identity({**defaults, **variant.settings}, free):
                return variant
    return None


def _identity(settings: Mapping[str, Any], free: Sequence[str]) -> dict[str, Any]:
    """The settings that define a variant, without ``free`` and those without effect given the others."""
    found = {key: settings[key] for key in _row_keys().difference(free)}
    if found["model.ma_blocks"] == 0:
        del found["model.fusion"]
    gated = found.get("model.fusion") == "mutual"
    if not gated or found["model.keep"] == "all":
        del found["model.tau"]
    if not gated:
        for name in READING:
            del found[f"model.{name}"]
    return found


def _row_keys() -> set[str]:
    return {key for variant in paper.VARIANTS.values() for key in variant.settings} - set(NO_ROW)


def _model_defaults() -> dict[str, Any]:
    return flat({"model": ModelSettings().model_dump(mode="json")})


def _trained_on(run: RunData) -> tuple[str, str] | None:
    name, split_by = (run.environment.get(f"data.{key}") for key in ("name", "split_by"))
    return (str(name), str(split_by)) if name and split_by else None


def _why_not(run: RunData) -> str | None:
    if variant_of(run) is None:
        return "whose model settings match no row"
    if _trained_on(run) is None:
        return "whose environment.json does not name its data set"
    return None


def _unlike_the_row(placed: Placed) -> dict[str, Any]:
    """Model settings that do not define a row, where they differ from the defaults or the row."""
    row, ours = {**_model_defaults(), **placed.variant.settings}, placed.run.settings
    of_rows = {*_row_keys().difference(PRESET), *NO_PART}
    return {key: ours[key] for key in row if key not in of_rows and key in ours and ours[key] != row[key]}


def _count(placed: Sequence[Placed]) -> tuple[Counted, list[str]]:
    """The runs that the tables average, which differ in their seeds only; and why others are not counted."""
    counted: Counted = {}
    problems: list[str] = []
    for one in placed:
        for where in one.scores:
            runs = counted.setdefault((one.trained_on, where, one.variant.name), {})
            if (problem := _unlike_others(one, list(runs.values()))) is None:
                runs[one.seed] = one
            else:
                problems.append(f"Not counted in the tables: {one.run.name} on {where}: {problem}.")
    return counted, problems


def _unlike_others(one: Placed, counted: Sequence[Placed]) -> str | None:
    """Why a run can't be averaged with those of its row that were counted before it; None if it can."""
    if any(other.seed == one.seed for other in counted):
        return f"another run of {one.variant.title} has seed {one.seed} too"
    if counted and _unlike_the_row(one) != _unlike_the_row(counted[0]):
        return f"its model settings are not those of {counted[0].run.name}, which is in the same row"
    return None


def _by_place(counted: Counted) -> dict[DataSplit, dict[str, dict[int, Scores]]]:
    """Scores on the data that a run was trained on, by split, row and seed."""
    found: dict[DataSplit, dict[str, dict[int, Scores]]] = {}
    for (trained_on, where, variant), runs in counted.items():
        if (where.name, where.split_by) == trained_on:
            found.setdefault(where, {})[variant] = {seed: run.scores[where] for seed, run in runs.items()}
    return found


def _ablation(section: Section, where: str = "", *notes: str) -> PaperTable:
    rows = tuple((cells, cells[1].startswith("here")) for cells in section.cells())
    return PaperTable(f"{section.title}{where}", HEAD, rows, notes)


def _table_1(counted: Counted) -> PaperTable:
    columns = paper.TABLE_1_COLUMNS
    notes = [f"{name.split(' (')[0]}: {iou}." for name, iou in paper.OTHER_IOU.items()]
    rows: list[tuple[tuple[str, ...], bool]] = []
    measured = {
        paper.SAM_ROW: ({paper.SAM: "here"}, "oIoU"),
        paper.MARIS_ROW: (MARIS, "oIoU"),
        paper.MARIS_PR90_ROW: (MARIS, "Pr@90"),
    }
    for name, numbers in paper.TABLE_1.items():
        rows.append(((name, *(shown(number) for number in numbers)), False))
        if name in measured:
            variants, metric = measured[name]
            for variant, label in variants.items():
                cells = [
                    _cell(counted, variant, (at.name, at.split_by), at, metric) for at in columns.values()
                ]
                if any(cell != NONE for cell in cells):
                    told = label if metric == "oIoU" else f"{label} ({metric})"
                    rows.append(((told, *cells), True))
    caption = f"Table 1. {paper.CAPTIONS[1]} U: UMD split; G: Google split."
    told = f"The paper calls all of them IoU; by their own code they are not one metric: {' '.join(notes)}"
    return PaperTable(caption, ("Methods", *columns), tuple(rows), (told,))


def _table_6(counted: Counted) -> PaperTable:
    tested_on = {where for _, where, _ in counted if _is_table_6(where)}
    rows: list[tuple[tuple[str, ...], bool]] = []
    for title, numbers in paper.TABLE_6.items():
        trained = {on for on, _, _ in counted if on[0] == paper.TABLE_6_TRAINED_ON[title]}
        found = {
            (split_by, label.removeprefix("here").removeprefix(", ")): cell
            for name, split_by in sorted(trained)
            for where in tested_on
            for variant, label in MARIS.items()
            if (cell := _cell(counted, variant, (name, split_by), where, "oIoU")) != NONE
        }
        several = len({split_by for split_by, _ in found}) > 1
        told = "; ".join(
            _with_brackets(cell, [split_by] if several else [], [label] if label else [])
            for (split_by, label), cell in found.items()
        )
        cells = (title, *(shown(number) for number in numbers))
        rows.append(((*cells, told or NONE), bool(told)))
    note = (
        "The paper does not say which IoU it reports, or on which of G-Ref's splits it trained; here: oIoU."
    )
    head = ("Training set", *paper.TABLE_6_METHODS, "here")
    return PaperTable(f"Table 6. {paper.CAPTIONS[6]}", head, tuple(rows), (note,))


def _with_brackets(cell: str, *inside: Sequence[str]) -> str:
    words = [word for part in inside for word in part]
    return f"{cell} ({', '.join(words)})" if words else cell


def _is_table_6(where: DataSplit) -> bool:
    return (where.name, where.split) == paper.TABLE_6_TESTED_ON


def _cell(counted: Counted, variant: str, trained_on: tuple[str, str], where: DataSplit, metric: str) -> str:
    """Mean and spread in percent over the seeds of a variant; a dash if there are none."""
    runs = counted.get((trained_on, where, variant), {}).values()
    values = [100 * one.scores[where][metric] for one in runs]
    return shown(*spread(values)) if values else NONE
