"""Photographs that two splits of one data set have: told at import, as a score on them is no test."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Literal

from maris_fast.data_shards.importers.coco_images import photograph_ids
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.looks import Look, looks_of, twins
from maris_fast.data_shards.records import DatasetInfo, ImageRecord, SharedPhotographs


class Photographs:
    """What is known of each split's photographs."""

    def __init__(self, info: DatasetInfo) -> None:
        self._root, self._synthetic = Path(info.image_root), info.synthetic
        # PhraseCut's authors divided its 77,000 images by number; to look into them takes minutes.
        self._official = info.split_by == "official"
        self._splits: dict[str, dict[Path, str]] = {}
        """Files by split, through all links, with their names below the image folder."""
        self._ids: dict[Path, set[Hashable]] = defaultdict(set)

    def add(self, split: str, records: Iterable[ImageRecord]) -> None:
        files = self._splits.setdefault(split, {})
        for record in records:
            path = Path(os.path.realpath(self._root / record.image))
            files.setdefault(path, record.image)
            self._ids[path] |= {path, *photograph_ids(record, self._synthetic)}

    def shared(self, options: ImportOptions) -> tuple[SharedPhotographs, ...]:
        """What any two splits share, by name, and by what the images show where these are checked anyway.

        Nothing is looked into where names or annotations tell of every image which photograph it is.
        """
        if len(self._splits) < 2:
            return ()
        unknown = any(len(ids) == 1 for ids in self._ids.values())
        look = unknown and options.check_images and not self._synthetic and not self._official
        looks = looks_of(self._ids, options.progress)[0] if look else {}
        return tuple(
            SharedPhotographs(
                splits=(first, second),
                images=len(pairs),
                by=ground,
                example=(
                    self._splits[first][next(iter(pairs))],
                    self._splits[second][next(iter(pairs.values()))],
                ),
            )
            for first, second in combinations(self._splits, 2)
            for ground, pairs in self._pairs(first, second, looks)
            if pairs
        )

    def _pairs(
        self, first: str, second: str, looks: Mapping[Path, Look]
    ) -> Iterator[tuple[Literal["name", "pixels", "looks"], dict[Path, Path]]]:
        """By ground, the surest first: files of the first split that are in the second, and which there."""
        ones, others = self._splits[first], self._splits[second]
        named = _met(ones, others, self._ids)
        yield "name", named
        pixels: dict[Path, set[Hashable]] = {path: {one.pixels} for path, one in looks.items()}
        copies = _met([path for path in ones if path not in named], others, pixels)
        yield "pixels", copies
        left = {path: looks[path] for path in ones if path in looks and path not in {*named, *copies}}
        alike = twins(left, {path: looks[path] for path in others if path in looks})
        yield "looks", {path: nearest[0].path for path, nearest in alike.items()}


def _met(ones: Iterable[Path], others: Iterable[Path], ids: Mapping[Path, set[Hashable]]) -> dict[Path, Path]:
    """Of the first files those that share an identity with one of the others, and with which."""
    owner = {identity: path for path in others for identity in ids.get(path, ())}
    shared = ((path, owner.get(one)) for path in ones for one in ids.get(path, ()))
    return {path: other for path, other in shared if other is not None}
