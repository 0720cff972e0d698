"""Scores of any model's masks on an imported data set, by all protocols, for ``maris-fast score``."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from maris_fast import scoring
from maris_fast.data_shards.importers.problems import Problems
from maris_fast.data_shards.plain_json import checked_json
from maris_fast.data_shards.records import ImportedDataset
from maris_fast.errors import first_of
from maris_fast.evaluation.expression_file import ScoredMask, lines_of
from maris_fast.rle import Rle, require_whole
from maris_fast.sample import Predicted, Sample
from maris_fast.scoring import Rows
from maris_fast.scoring.rows import ScoreTable


class Prediction(BaseModel):
    """A line of predictions. Other keys are ignored, so that a file of scored expressions can be used too."""

    sent_id: int
    prediction: Rle
    """At the image's own size."""
    image_id: int | None = None
    ref_id: int | None = None
    no_target: bool | None = None
    """The model's no-target output, if it has one."""


@dataclass(frozen=True)
class _Line:
    number: int
    row: Prediction


def score_masks(
    predictions: Path,
    dataset: ImportedDataset,
    split: str,
    protocols: Sequence[scoring.Protocol],
    progress: Callable[[int, int], None] | None = None,
) -> tuple[ScoreTable, list[ScoredMask]]:
    """Compare the mask of every expression of a split with its prediction.

    Args:
        predictions: JSON lines, one for each expression of the split, in any order.
        dataset: holds the ground truth.
        protocols: those that masks can be scored by, see ``scoring.from_masks``.
        progress: called with the number of expressions scored and their total.

    Returns:
        The scored expressions, and a line for each, for ``expression_file.write_lines``.

    Raises:
        OSError: the file cannot be read.
        InputError: no such split; or predictions that are missing, duplicate, for no expression of
            the split, of another size than their image, or damaged: all are listed.
    """
    problems = Problems(f"the predictions of {predictions}", done="scored", shown=None)
    given = _read(predictions, problems)
    used: set[int] = set()
    rows, kept = Rows(protocols), []
    done, total = 0, dataset.info.splits[split].sentences if split in dataset.info.splits else 0
    missing: dict[str, list[str]] = defaultdict(list)
    for record in dataset.records(split):
        for sample in record.samples():
            lines = [line for line in given.get(sample.sent_id, ()) if _is_about(line.row, sample)]
            used.update(line.number for line in lines)
            done += 1
            if progress is not None:
                progress(done, total)
            if not lines:
                missing[record.image].append(str(sample.sent_id))
                continue
            if len(lines) > 1:
                where = ", ".join(str(line.number) for line in lines)
                problems.add(
                    "expressions with several predictions", f"sent_id {sample.sent_id}: lines {where}"
                )
                continue
            mask = _mask(lines[0], sample, problems)
            if mask is None:
                continue
            says_none = lines[0].row.no_target
            rows.add(rows.comparer.of_mask(mask, sample), sample, says_none)
            shown = Rle.empty(*sample.target.size) if says_none else lines[0].row.prediction
            kept.append(Predicted(sample, shown))
    for image, sentences in missing.items():
        problems.add(
            f"expressions of {split} without a prediction", f"{image}: sent_id {', '.join(sentences)}"
        )
    for line in (line for of_sentence in given.values() for line in of_sentence if line.number not in used):
        problems.add(f"predictions of no expression of {split}", f"line {line.number}: {_ids(line.row)}")
    problems.raise_if_any(
        f"expected one line for each of the {total:,} expressions of {split} in {dataset.folder}, with the "
        "sent_id of the data set and a mask at the image's own size"
    )
    table = rows.table()
    return table, lines_of(table, kept)


def _read(file: Path, problems: Problems) -> dict[int, list[_Line]]:
    """The lines by their sent_id; those that are not a prediction are added to ``problems``."""
    given: dict[int, list[_Line]] = defaultdict(list)
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                row = checked_json(Prediction, line)
            except ValueError as error:
                problems.add("lines that are not predictions", f"line {number}: {first_of(error)}")
            else:
                given[row.sent_id].append(_Line(number, row))
    return given


def _is_about(row: Prediction, sample: Sample) -> bool:
    """Whether the image_id and ref_id of the row, if given, are those of the expression."""
    return row.image_id in (None, sample.image_id) and row.ref_id in (None, sample.ref_id)


def _mask(line: _Line, sample: Sample, problems: Problems) -> NDArray[np.bool_] | None:
    """The mask, bool [height, width]; None if it has the wrong size or is damaged."""
    said, own = line.row.prediction, sample.target.size
    where = f"line {line.number}: {_ids(line.row)}"
    if said.size != own:
        problems.add(
            "masks of another size than their image (height x width); resize them before they are coded",
            f"{where}: {said.size[0]} x {said.size[1]}, {sample.image} is {own[0]} x {own[1]}",
        )
        return None
    try:
        require_whole(said.counts, *own)
    except ValueError as error:
        problems.add("masks that cannot be used", f"{where}: {error}")
        return None
    return said.decode()


def _ids(row: Prediction) -> str:
    given = row.model_dump(include={"image_id", "ref_id", "sent_id"}, exclude_none=True)
    return ", ".join(f"{name} {value}" for name, value in given.items())
