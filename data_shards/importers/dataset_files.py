"""Writes an imported data set as files; ``records`` describes their contents."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import compress
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from maris_fast.data_shards.importers.left_out import BadRows, KeptImages, write_listing
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.shared import Photographs
from maris_fast.data_shards.records import HEAD, TRAIN, VAL, DatasetInfo, ImageRecord, SplitCounts, count
from maris_fast.errors import InputError


class Records(Protocol):
    """The records of a split: a list, or an object that creates them anew on each iteration."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[ImageRecord]: ...


def write_dataset(
    folder: Path,
    info: DatasetInfo,
    splits: Iterable[tuple[str, Records]],
    bad: BadRows,
    options: ImportOptions,
) -> DatasetInfo:
    """Write the splits one after the other, what was left out of them, and the head.

    Args:
        info: the head, except for its counts.
        splits: names and records; iterating over them may add to ``bad``.

    Returns:
        The head that was written.

    Raises:
        InputError: as ``BadRows.settle``; or there are no images to hold out.
    """
    counts: dict[str, SplitCounts] = {}
    images = KeptImages()
    photographs = Photographs(info)

    def noted(split: str, records: Iterable[ImageRecord]) -> Iterator[ImageRecord]:
        for record in records:
            images.add(split, record.image)
            photographs.add(split, record)
            yield record

    for split, records in splits if options.hold_out is None else _divided(splits, bad, options):
        counts[split] = write_split(folder, split, noted(split, records))
    whole, left_out = bad.settle(info.model_copy(update={"splits": counts}), images, options)
    if left_out:
        write_listing(folder, left_out)
    whole = whole.model_copy(update={"shared": photographs.shared(options)})
    write_head(folder, whole)
    return whole


@dataclass(frozen=True)
class _Some:
    """Those of a split's records that a mask, [records], selects."""

    records: Records
    mask: NDArray[np.bool_]

    def __len__(self) -> int:
        return int(self.mask.sum())

    def __iter__(self) -> Iterator[ImageRecord]:
        return compress(self.records, self.mask)


def _divided(
    splits: Iterable[tuple[str, Records]], bad: BadRows, options: ImportOptions
) -> Iterator[tuple[str, Records]]:
    """The splits, followed by a validation split that is a share of the train images.

    Whether an image is held out depends on its path, the seed and the other train images' paths alone.
    """
    assert options.hold_out is not None
    held: Records = ()
    for split, records in splits:
        if split == VAL:
            raise InputError(f"there is a split {VAL!r} already; leave out `hold_out`")
        if split == TRAIN:
            number = max(1, round(options.hold_out * len(records)))
            if number >= len(records):
                raise InputError(
                    f"`hold_out` {options.hold_out:g} of {len(records)} images leaves none to train on; "
                    "expected two images at least, and a smaller share"
                )
            mask = np.zeros(len(records), np.bool_)
            mask[_by_hash(records, options.seed)[:number]] = True
            held, records = _Some(records, mask), _Some(records, ~mask)
        yield split, records
    if not held:
        raise InputError(f"there is no split {TRAIN!r} to hold images out of; leave out `hold_out`")
    bad.move({one.image for one in held}, TRAIN, VAL)
    yield VAL, held


def _by_hash(records: Records, seed: int) -> NDArray[np.int64]:
    """Indices of the records in the order of a hash of seed and path."""
    hashes = b"".join(sha256(f"{seed}/{one.image}".encode()).digest() for one in records)
    words = np.frombuffer(hashes, ">u8").reshape(len(records), -1)
    return np.lexsort(words.T[::-1])


def write_split(folder: Path, split: str, records: Iterable[ImageRecord]) -> SplitCounts:
    """Write the split's JSON lines and return their counts."""
    with (folder / f"{split}.jsonl").open("w") as lines:

        def written() -> Iterator[ImageRecord]:
            for record in records:
                lines.write(f"{record.model_dump_json()}\n")
                yield record

        return count(written())


def write_head(folder: Path, info: DatasetInfo) -> None:
    """Write ``dataset.json``."""
    (folder / HEAD).write_text(info.model_dump_json(indent=1))
