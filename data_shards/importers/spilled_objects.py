"""Keeps objects on disk until all lines are read, as those of an image may be on any line."""

from __future__ import annotations

import json
import os
import tempfile
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class SpilledObject(NamedTuple):
    """What sentences refer to in an image, and the sentences.

    Attributes:
        counts, area: of its mask, as in ``Rle``.
    """

    counts: str
    area: int
    category: str
    kind: str | None
    texts: list[str]


class NumberedObject(NamedTuple):
    """An object with its ref's id, valid if it is the first of its target, and its first sentence's id."""

    one: SpilledObject
    ref_id: int
    first_sent_id: int


class SpilledObjects:
    """Objects in the order in which they are added; only a few numbers of each stay in memory.

    Args:
        folder: where the temporary file is; it has no name and is deleted with this object.
    """

    def __init__(self, folder: Path) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  # closed by __exit__
        self._bytes = 0
        self._splits, self._images = array("h"), array("i")
        self._offsets, self._texts = array("q"), array("i")
        self._targets = bytearray()
        """A hash of mask and category for each object."""

    def __enter__(self) -> SpilledObjects:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, split: int, image: int, one: SpilledObject) -> None:
        content = json.dumps(one).encode()
        self._file.write(content)
        self._splits.append(split)
        self._images.append(image)
        self._offsets.append(self._bytes)
        self._texts.append(len(one.texts))
        target = json.dumps([one.counts, one.category]).encode()
        self._targets += blake2b(target, digest_size=16).digest()
        self._bytes += len(content)

    def settle(self) -> None:
        """Assign ids to refs and sentences in the order of the objects, once all are added."""
        self._file.flush()
        texts = np.array(self._texts, np.int64)
        self._first_sent_ids = np.cumsum(texts) - texts + 1
        self._ref_ids = np.cumsum(self._begins_target())

    def _begins_target(self) -> NDArray[np.bool_]:
        """Whether each object is the first in its split and image with its mask and category."""
        marks = np.frombuffer(bytes(self._targets), np.uint64).reshape(-1, 2)
        keys = (*marks.T, np.array(self._images), np.array(self._splits))
        order = np.lexsort(keys)
        begins = np.ones(len(order), np.bool_)
        begins[1:] = np.any([key[order[1:]] != key[order[:-1]] for key in keys], axis=0)
        first = np.empty(len(order), np.bool_)
        first[order] = begins
        return first

    def images(self, split: int) -> int:
        """The number of the split's images that have an object."""
        return len(np.unique(np.array(self._images)[np.array(self._splits) == split]))

    def by_image(self, split: int) -> Iterator[tuple[int, Sequence[NumberedObject]]]:
        """Images of a split in ascending order, with their objects in the order in which they were added."""
        places = np.flatnonzero(np.array(self._splits) == split)
        images = np.array(self._images)[places]
        places = places[np.argsort(images, kind="stable")]
        images = np.sort(images)
        begins = np.flatnonzero(np.diff(images, prepend=-1))
        for begin, end in pairwise([*begins.tolist(), len(images)]):
            yield int(images[begin]), [self._object(int(place)) for place in places[begin:end]]

    def _object(self, place: int) -> NumberedObject:
        begin = self._offsets[place]
        end = self._offsets[place + 1] if place + 1 < len(self._offsets) else self._bytes
        content = os.pread(self._file.fileno(), end - begin, begin)
        return NumberedObject(
            SpilledObject(*json.loads(content)),
            int(self._ref_ids[place]),
            int(self._first_sent_ids[place]),
        )
