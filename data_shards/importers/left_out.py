"""Rows of annotation files that cannot be used: refused together, or left out, counted and listed.

A row is the unit that is left out: a ref with its sentences, one empty sentence of a ref, a phrase, a line or
one object of a line. Left-out rows are listed in ``dataset.left_out.jsonl`` beside the records, and
``dataset.json`` has their counts, so that scores on the remaining rows are not taken for scores on all rows.
Rows that say nothing, such as a ref without sentences, are left out, counted and listed in any case.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.problems import Problems
from maris_fast.data_shards.records import (
    UNKNOWN_SPLIT,
    VAL,
    DatasetInfo,
    Frozen,
    ImageRecord,
    LeftOut,
    LostCounts,
    together,
)
from maris_fast.errors import InputError

LISTING = "dataset.left_out.jsonl"
"""The dot in its stem keeps it distinct from every split's file."""
MOST_LEFT_OUT = 0.5
"""Fraction of a split's expressions. If more cannot be used, the files are probably misread, not bad."""


class SourceRow(Frozen):
    """Where a row is located, and what is lost with it."""

    file: str
    split: str = Field(description="'?' if a damaged line does not say")
    row: str = Field(description="such as 'ref 13', 'phrase 7', 'line 4, object 2'")
    image: str | None = Field(description="path below the image folder, 'image <id>' if unknown")
    expressions: int = Field(description="lost with it; a line that cannot be read counts as one")


class LeftOutRow(SourceRow):
    """A line of ``dataset.left_out.jsonl``."""

    reason: str
    detail: str


class Fault(NamedTuple):
    """What is wrong with a row or an image.

    Attributes:
        kind: a heading; text after a semicolon may say what to do.
        detail: names file and ids.
    """

    kind: str
    detail: str

    @property
    def reason(self) -> str:
        return self.kind.partition(";")[0]


class KeptImages:
    """The images that are kept in each split, 8 bytes per image; images with equal hashes count as one."""

    def __init__(self) -> None:
        self._hashes = array("q")

    def add(self, split: str, image: str) -> None:
        """``image``: its path."""
        self._hashes.append(hash((split, image)))

    def among(self, images: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
        """Those of the given (split, path) pairs that are kept."""
        asked = list(set(images))
        left = np.isin([hash(one) for one in asked], np.array(self._hashes, np.int64))
        return {one for one, is_left in zip(asked, left, strict=True) if is_left}


class _Skipped(NamedTuple):
    row: SourceRow
    faults: tuple[Fault, ...]
    lost: bool
    """Whether anything is lost with it; else it is no reason to refuse the import."""


class BadRows:
    """Collects the rows that an importer cannot use and skips."""

    def __init__(self, subject: str, *, done: str = "imported") -> None:
        self._subject, self._done = subject, done
        self._rows: list[_Skipped] = []
        self._notes: list[Fault] = []

    def __bool__(self) -> bool:
        return bool(self._rows)

    def add(self, row: SourceRow, *faults: Fault) -> None:
        """Add a lost row, once per row; the first of its faults counts as the reason."""
        self._skip(row, faults, lost=True)

    def add_empty(self, row: SourceRow, fault: Fault) -> None:
        """Add a row that says nothing: it is left out, counted and listed whatever the options."""
        self._skip(row, (fault,), lost=False)

    def _skip(self, row: SourceRow, faults: Iterable[Fault], *, lost: bool) -> None:
        if row.image is not None:
            row = row.model_copy(update={"image": _printable(row.image)})
        self._rows.append(_Skipped(row, tuple(map(_told, faults)), lost))

    def move(self, images: Iterable[str], split: str, other: str) -> None:
        """Move the rows of these images, given by path, from ``split`` to ``other``."""
        paths = {*map(_printable, images)}
        self._rows = [
            one._replace(row=one.row.model_copy(update={"split": other}))
            if one.row.split == split and one.row.image in paths
            else one
            for one in self._rows
        ]

    def note(self, faults: Iterable[Fault]) -> None:
        """Add faults to be reported even if no row is lost by them because their rows are lost already."""
        self._notes += map(_told, faults)

    def without_images(
        self, records: Iterable[ImageRecord], faults: Mapping[int, Fault], *, file: str, split: str, what: str
    ) -> list[ImageRecord]:
        """The records whose image has no fault; targets of the others are added as rows "``what`` ref_id"."""
        sound = []
        for record in records:
            if record.image_id not in faults:
                sound.append(record)
                continue
            sentences = Counter(expression.target for expression in record.expressions)
            for index, target in enumerate(record.targets):
                row = SourceRow(
                    file=file,
                    split=split,
                    row=f"{what} {target.ref_id}",
                    image=record.image,
                    expressions=sentences[index],
                )
                self.add(row, faults[record.image_id])
        self.note(faults.values())
        return sound

    def settle(
        self, info: DatasetInfo, images: KeptImages, options: ImportOptions
    ) -> tuple[DatasetInfo, list[LeftOutRow]]:
        """Refuse the rows, or count them.

        Args:
            info: with the counts of what is kept.
            images: all that are kept.

        Returns:
            ``info`` with the counts of what is left out, now and earlier, and the rows.

        Raises:
            InputError: there are bad rows, and they may not be left out or, with empty ones, are too many.
        """
        wanted = {*options.splits, UNKNOWN_SPLIT, *([VAL] if options.hold_out else [])}
        rows = [one for one in self._rows if not options.splits or one.row.split in wanted]
        if not options.leave_out_bad:
            self._problems([one for one in rows if one.lost]).raise_if_any(
                f"`leave_out_bad` leaves such rows out instead, counts them and names each in {LISTING}"
            )
        if not rows:
            return info, []
        listed = [
            LeftOutRow(**one.row.model_dump(), reason=one.faults[0].reason, detail=one.faults[0].detail)
            for one in rows
        ]
        self._require_few(listed, info, self._problems(rows))
        named = ((row.split, row.image) for row in listed if row.image is not None)
        counted = _counted(listed, images.among(named))
        before = info.left_out
        both = {
            split: together([one[split] for one in (before, counted) if split in one])
            for split in {**before, **counted}
        }
        return info.model_copy(update={"left_out": both}), listed

    def _problems(self, rows: Sequence[_Skipped]) -> Problems:
        """The faults of these rows, and the notes."""
        problems = Problems(self._subject, done=self._done)
        for fault in [fault for one in rows for fault in one.faults] + self._notes:
            problems.add(*fault)
        return problems

    def _require_few(self, listed: Sequence[LeftOutRow], info: DatasetInfo, problems: Problems) -> None:
        lost: Counter[str] = Counter()
        for row in listed:
            lost[row.split] += max(1, row.expressions)
        kept = {split: counts.sentences for split, counts in info.splits.items()}
        every = ("all splits", lost.total(), sum(kept.values()))
        by_split = [(split, n, kept.get(split, 0)) for split, n in lost.items() if split != UNKNOWN_SPLIT]
        for what, out, left in (*by_split, every):
            if out > MOST_LEFT_OUT * (out + left):
                raise InputError(
                    "\n".join(
                        [
                            f"{self._subject}: {out:,} of {out + left:,} expressions of {what} would be left "
                            f"out, more than {MOST_LEFT_OUT:.0%}, so they are probably read in the wrong "
                            "way; nothing was written:",
                            *problems.lines(),
                            f"check that {info.source} and the files beside it are of one data set and in "
                            f"the format of docs/datasets.md, and that {info.image_root} is the folder which "
                            "its image paths start from (`images`)",
                        ]
                    )
                )


def write_listing(folder: Path, rows: Sequence[LeftOutRow]) -> None:
    """Write ``dataset.left_out.jsonl``."""
    (folder / LISTING).write_text("".join(f"{row.model_dump_json()}\n" for row in rows))


def _told(fault: Fault) -> Fault:
    return fault._replace(detail=_printable(fault.detail))


def _printable(text: str) -> str:
    """The text with unprintable characters escaped: file names and ids come from others."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def _counted(listed: Sequence[LeftOutRow], kept: set[tuple[str, str]]) -> dict[str, LeftOut]:
    """Counts by split; an image is lost if nothing of it is kept in the split."""
    by_split: dict[str, list[LeftOutRow]] = defaultdict(list)
    for row in listed:
        by_split[row.split].append(row)
    left_out = {}
    for split, rows in by_split.items():
        by_reason: dict[str, list[LeftOutRow]] = defaultdict(list)
        for row in rows:
            by_reason[row.reason].append(row)
        reasons = {reason: _lost(of_it, kept) for reason, of_it in by_reason.items()}
        left_out[split] = LeftOut(**_lost(rows, kept).model_dump(), reasons=reasons)
    return left_out


def _lost(rows: Sequence[LeftOutRow], kept: set[tuple[str, str]]) -> LostCounts:
    images = {(row.split, row.image) for row in rows if row.image is not None}
    return LostCounts(
        rows=len(rows), expressions=sum(row.expressions for row in rows), images=len(images - kept)
    )
