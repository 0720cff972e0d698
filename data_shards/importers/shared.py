"""Photographs shared by two splits of a data set: reported at import, as they invalidate test scores."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import combinations
from pathlib import Path
from typing import Literal

from maris_fast.data_shards.importers.coco_images import photograph_ids
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.looks import Look, looks_of, twins
from maris_fast.data_shards.records import DatasetInfo, ImageRecord, SharedPhotographs


@dataclass
class _Split:
    """Files of a split, by number, and their names below the image folder."""

    files: array[int] = field(default_factory=lambda: array("i"))
    names: list[str] = field(default_factory=list)

    def name_of(self, file: int) -> str:
        """The first name that the file has in this split."""
        return self.names[self.files.index(file)]


class Photographs:
    """What is known of each split's photographs; files are numbered, as there may be millions."""

    def __init__(self, info: DatasetInfo) -> None:
        self._root, self._synthetic = Path(info.image_root), info.synthetic
        self._real_root = os.path.realpath(self._root)
        # PhraseCut's authors divided its 77,000 images by number; comparing their content takes minutes.
        self._official = info.split_by == "official"
        self._splits: dict[str, _Split] = {}
        self._files: dict[bytes, int] = {}
        """File numbers by a hash of the path with all links resolved."""
        self._names: list[str] = []
        """That path of each file, relative to the image folder if it is inside."""
        self._ids: dict[int, tuple[tuple[str, int], ...]] = {}
        """Ids at COCO and Flickr, of the files that have any."""

    def add(self, split: str, record: ImageRecord) -> None:
        of_split = self._splits.setdefault(split, _Split())
        path = os.path.realpath(self._root / record.image)
        own = os.path.join(self._real_root, record.image)
        name = record.image if path == own else path
        mark = blake2b(os.fsencode(path), digest_size=16).digest()
        file = self._files.setdefault(mark, len(self._files))
        if file == len(self._names):
            self._names.append(name)
        of_split.files.append(file)
        of_split.names.append(record.image)
        if ids := photograph_ids(record, self._synthetic):
            self._ids[file] = tuple({*self._ids.get(file, ()), *ids})

    def shared(self, options: ImportOptions) -> tuple[SharedPhotographs, ...]:
        """What any two splits share, by name, and by image content if images are checked anyway.

        Content is not compared if names or annotations identify the photograph of every image.
        """
        if len(self._splits) < 2:
            return ()
        unknown = len(self._ids) < len(self._files)
        look = unknown and options.check_images and not self._synthetic and not self._official
        looks = self._looks(options) if look else {}
        return tuple(
            SharedPhotographs(
                splits=(first, second),
                images=len(pairs),
                by=ground,
                example=(
                    self._splits[first].name_of(next(iter(pairs))),
                    self._splits[second].name_of(next(iter(pairs.values()))),
                ),
            )
            for first, second in combinations(self._splits, 2)
            for ground, pairs in self._pairs(first, second, looks)
            if pairs
        )

    def _path(self, file: int) -> str:
        return os.path.join(self._real_root, self._names[file])

    def _looks(self, options: ImportOptions) -> dict[int, Look]:
        paths = {self._path(file): file for file in range(len(self._names))}
        return {paths[path]: look for path, look in looks_of(paths, options.progress)[0].items()}

    def _pairs(
        self, first: str, second: str, looks: Mapping[int, Look]
    ) -> Iterator[tuple[Literal["name", "pixels", "looks"], dict[int, int]]]:
        """By ground, the most certain first: files of the first split with their match in the second."""
        ones = dict.fromkeys(self._splits[first].files)
        others = dict.fromkeys(self._splits[second].files)
        named = _met(ones, others, lambda file: {file, *self._ids.get(file, ())})
        yield "name", named
        left = [file for file in ones if file not in named]
        copies = _met(left, others, lambda file: {looks[file].pixels} if file in looks else set())
        yield "pixels", copies
        unmet = {self._path(file): file for file in left if file in looks and file not in copies}
        held = {self._path(file): file for file in others if file in looks}
        alike = twins(
            {path: looks[file] for path, file in unmet.items()},
            {path: looks[file] for path, file in held.items()},
        )
        yield "looks", {unmet[path]: held[nearest[0].path] for path, nearest in alike.items()}


def _met(ones: Iterable[int], others: Iterable[int], ids: Callable[[int], set[Hashable]]) -> dict[int, int]:
    """Those of ``ones`` that share an id with one of ``others``, each with that other file."""
    owner = {identity: file for file in others for identity in ids(file)}
    shared = ((file, owner.get(one)) for file in ones for one in ids(file))
    return {file: other for file, other in shared if other is not None}
