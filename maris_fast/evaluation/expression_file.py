"""Scored expressions as JSON lines, ``maris-fast eval --per-expression FILE``: what a score is made of.

One line for each expression, by MARIS' own rules and at the image's own size::

    {"image_id": 5, "ref_id": 12, "sent_id": 34, "sentence": "the red mug",
     "image": "COCO_train2014_000000000005.jpg", "iou": 0.5, "intersection": 200, "union": 400,
     "ann_ids": [900], "prediction": {"size": [480, 640], "counts": "..."}}

``prediction`` is COCO's compressed run lengths, as pycocotools writes them. ``maris-fast compare`` reads two
such files, ``maris-fast score`` writes one for any model's predictions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field, FiniteFloat
from torch import Tensor

from maris_fast.data_shards.plain_json import checked_json
from maris_fast.errors import InputError, first_of
from maris_fast.rle import Rle
from maris_fast.sample import Key, Predicted, Sample
from maris_fast.scoring import MARIS
from maris_fast.scoring.rows import Facts, ScoreTable
from maris_fast.system.files import replace_text, writing
from maris_fast.train.ranks import Ranks


class Scored(BaseModel):
    """The part of a line about an expression's score; other keys are ignored."""

    image_id: int
    ref_id: int
    sent_id: int
    sentence: str
    image: str = ""
    iou: FiniteFloat = Field(ge=0, le=1)
    intersection: int = Field(ge=0)
    union: int = Field(ge=0)

    @property
    def key(self) -> Key:
        return Key(self.image_id, self.ref_id, self.sent_id)


class ScoredMask(Scored):
    """A complete line."""

    ann_ids: tuple[int, ...]
    prediction: Rle


@dataclass
class KeptMasks:
    """Collects the masks of an evaluation, and turns them into lines at its end."""

    kept: list[Predicted] = field(default_factory=list)
    lines: list[ScoredMask] = field(default_factory=list)

    def see(self, sample: Sample, prediction: Tensor) -> None:
        """Called with each of this rank's expressions and its mask at the image's own size, on any device."""
        self.kept.append(Predicted(sample, Rle.encode(prediction.numpy(force=True))))

    def finish(self, table: ScoreTable, ranks: Ranks) -> None:
        """Combine the masks of all ranks with the numbers in ``table``, the source of the scores."""
        every = [one for of_rank in ranks.gather(self.kept) for one in of_rank]
        self.lines = lines_of(table, every)


def lines_of(table: ScoreTable, kept: Iterable[Predicted]) -> list[ScoredMask]:
    """A line for each of the table's expressions, in its order."""
    counts = table.of(MARIS)
    by_key = sorted(kept, key=lambda one: one.sample.key)
    return [
        ScoredMask(
            **one.sample.key._asdict(),
            image=one.sample.image,
            ann_ids=one.sample.ann_ids,
            sentence=one.sample.text,
            iou=float(iou),
            intersection=int(intersection),
            union=int(union),
            prediction=one.mask,
        )
        for one, (intersection, union, iou, _) in zip(by_key, counts, strict=True)
    ]


def write_lines(file: Path, lines: Iterable[ScoredMask]) -> None:
    """
    Raises:
        InputError: the file cannot be written; an earlier one is left unchanged.
    """
    with writing(file, "`per_expression`"):
        replace_text(file, (f"{line.model_dump_json()}\n" for line in lines))


def read_scored(file: Path) -> list[Scored]:
    """The expressions of a file in the order of their keys.

    Raises:
        InputError: a line that is not a scored expression, two about the same one, or none at all.
    """
    found: dict[Key, Scored] = {}
    with file.open("rb") as lines:  # binary: text mode would also end lines at \r
        for number, line in enumerate(lines, start=1):
            try:
                one: Scored = checked_json(Scored, line)
            except ValueError as error:
                raise InputError(
                    f"{file}, line {number}: {first_of(error)}; expected lines that `maris-fast eval "
                    "--per-expression` or `maris-fast score --per-expression` wrote"
                ) from error
            if one.key in found:
                raise InputError(
                    f"{file}, line {number}: {shown(one.key)} appears twice; each may appear once"
                )
            found[one.key] = one
    if not found:
        raise InputError(f"{file} holds no scored expression")
    return [found[key] for key in sorted(found)]


def shown(key: Key) -> str:
    return f"image_id {key.image_id}, ref_id {key.ref_id}, sent_id {key.sent_id}"


def table_of(scored: Sequence[Scored]) -> ScoreTable:
    """The expressions as a table of MARIS' own rules; without groups."""
    facts = [Facts(*one.key, first=True, targetless=False, twice_covered=-1, groups=()) for one in scored]
    counts = np.array([[one.intersection, one.union, one.iou, 0] for one in scored], dtype=np.float64)
    return ScoreTable((MARIS,), facts, counts[:, None])
