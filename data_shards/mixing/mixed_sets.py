"""The data sets that are mixed, and what identifies their images."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from pathlib import Path
from typing import NamedTuple

from maris_fast.data_shards.importers.coco_images import cocos_own_file, photograph_ids
from maris_fast.data_shards.records import TRAIN, DatasetInfo, ImageRecord, ImportedDataset
from maris_fast.errors import InputError

MOST_DATASETS = 98
"""An image's id has 12 digits in a cache, see ``joining``."""

Identity = tuple[str, int] | bytes
"""An id with its source, or a hash of a path or of pixels, kept short as there may be millions."""


@dataclass(frozen=True)
class Part:
    """A data set with its number, from 1."""

    number: int
    dataset: ImportedDataset
    tick: Callable[[], None]
    """Called for each record that is read."""

    def records(self, split: str) -> Iterator[Placed]:
        first_byte = 0
        for record, line_bytes in self.dataset.records_and_bytes(split):
            self.tick()
            yield Placed(self, record, split, first_byte)
            first_byte += line_bytes

    @property
    def info(self) -> DatasetInfo:
        return self.dataset.info

    @property
    def name(self) -> str:
        return f"{self.info.name} {self.info.split_by}"

    def label(self, split: str) -> str:
        return f"{self.info.name} ({self.info.split_by}) {split}"

    @property
    def held_out(self) -> list[str]:
        return [split for split in self.info.splits if split != TRAIN]

    def path(self, record: ImageRecord) -> Path:
        return Path(self.info.image_root) / record.image

    def file_key(self, record: ImageRecord) -> Identity:
        """Identity of the file; COCO's own files keep theirs wherever they are stored."""
        number = None if self.info.synthetic else cocos_own_file(record.image)
        return path_key(self.real_path(record)) if number is None else ("coco", number)

    def real_path(self, record: ImageRecord) -> str:
        """Path of the image's file, with all links resolved."""
        return os.path.realpath(self.path(record))

    def identities(self, record: ImageRecord) -> set[Identity]:
        """All identities of the photograph that names and annotations reveal."""
        return {path_key(self.real_path(record)), *photograph_ids(record, self.info.synthetic)}


def path_key(real_path: str) -> bytes:
    return blake2b(os.fsencode(real_path), digest_size=16).digest()


class Placed(NamedTuple):
    """A record of a part, and where it begins in the JSON lines of its split."""

    part: Part
    record: ImageRecord
    split: str
    first_byte: int


def parts_of(
    folders: Sequence[Path], held_out: Sequence[Path], progress: Callable[[int, int], None] | None
) -> tuple[list[Part], list[Part]]:
    """The data sets to be mixed, and those that are held out only.

    Args:
        progress: called with the number of records read so far and the total: a train split counts once, a
            held-out one once for the guard, and again if it is mixed in.

    Raises:
        InputError: as ``mix_datasets``.
    """
    resolved = [Path(folder).resolve() for folder in (*folders, *held_out)]
    for folder in resolved:
        if resolved.count(folder) > 1:
            raise InputError(f"{folder} is named twice; a data set that is mixed in is held out in any case")
    if not folders or len(resolved) > MOST_DATASETS:
        raise InputError(f"{len(resolved)} data sets were named; expected 1 to {MOST_DATASETS}")
    done, total = count(1), 0

    def tick() -> None:
        if progress is not None:
            progress(next(done), total)

    every = [
        Part(number, ImportedDataset(Path(one)), tick)
        for number, one in enumerate((*folders, *held_out), start=1)
    ]
    parts, others = every[: len(folders)], every[len(folders) :]
    for part in parts:
        if TRAIN not in part.info.splits:
            raise InputError(
                f"{part.dataset.folder} has no split {TRAIN!r} to mix in, but {', '.join(part.info.splits)}; "
                "if its images are to be kept out of training, name it with `held_out`"
            )
    for part in others:
        if not part.held_out:
            raise InputError(
                f"{part.dataset.folder} has the split {TRAIN!r} alone, so it holds nothing out; import its "
                "test images under another split's name"
            )
    for part in every:
        images = {split: counts.images for split, counts in part.info.splits.items()}
        held = sum(images[split] for split in part.held_out)
        total += held if part in others else 2 * held + images[TRAIN]
    return parts, others
