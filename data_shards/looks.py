"""Fingerprints of photographs that find a copy under any name: exact, re-encoded, or resized.

A photograph has two fingerprints, taken after its EXIF orientation is applied. One is a hash of its decoded
pixels, which only a lossless copy shares. The other is a perceptual hash of 256 bits (ImageHash's ``phash``:
the signs, about their median, of the lowest 16 x 16 frequencies of the grey image at 64 x 64), which differs
in few bits for a copy that was compressed or resized.

Measured on 128 photographs of COCO (docs/datasets.md): copies as JPEG, PNG or WebP, at half or a quarter of
the size, or stretched to a square, differ in at most 10 bits, and no two photographs differ in fewer than 96.
A copy that was cropped or framed is not found.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maris_fast.errors import InputError
from maris_fast.images import load_image
from maris_fast.system.threads import mapped

P = TypeVar("P", Path, str)

LOOK_ALIKE = 32
"""Largest number of differing bits, of 256, for two images that count as looking alike."""

SIDE = 16
THREADS = 4
_AT_ONCE = 2048


@dataclass(frozen=True, slots=True)
class Look:
    """The fingerprints of one photograph, as bytes: millions may be in memory."""

    pixels: bytes
    packed: bytes
    """``bits``, packed eight to a byte."""

    @property
    def bits(self) -> NDArray[np.bool_]:
        """[256]."""
        return np.unpackbits(np.frombuffer(self.packed, np.uint8)).view(np.bool_)


class Twin(NamedTuple, Generic[P]):
    """A photograph that looks like another one."""

    path: P
    distance: int
    """Number of differing bits."""


def look_of(image: Image.Image) -> Look:
    """The fingerprints of an RGB image."""
    import imagehash

    marks = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    marks.update(image.tobytes())
    bits = imagehash.phash(image, hash_size=SIDE).hash
    return Look(marks.digest(), np.packbits(bits).tobytes())


def looks_of(
    paths: Iterable[P], progress: Callable[[int, int], None] | None = None
) -> tuple[dict[P, Look], dict[P, str]]:
    """The fingerprints of image files, each read once, and the errors of those that cannot be read.

    Args:
        progress: called with the number of files done and the total.
    """

    def look(path: P) -> Look | str:
        try:
            return look_of(load_image(Path(path)))
        except InputError as error:
            return str(error)

    every = dict.fromkeys(paths)
    seen: dict[P, Look] = {}
    unseen: dict[P, str] = {}
    for done, (path, found) in enumerate(mapped(look, every, THREADS), start=1):
        if isinstance(found, Look):
            seen[path] = found
        else:
            unseen[path] = found
        if progress is not None:
            progress(done, len(every))
    return seen, unseen


def twins(of: Mapping[P, Look], among: Mapping[P, Look], most: int = LOOK_ALIKE) -> dict[P, list[Twin[P]]]:
    """For each photograph those that look like it, nearest first, except those with identical pixels.

    Memory is bounded; time grows with the product of the two numbers of photographs.

    Args:
        most: largest number of differing bits.
    """
    ours, theirs = list(of), list(among)
    found: dict[P, list[Twin[P]]] = {}
    for first in range(0, len(ours), _AT_ONCE):
        some = ours[first : first + _AT_ONCE]
        signs = _signs([of[path] for path in some])
        of_some: list[list[Twin[P]]] = [[] for _ in some]
        for begin in range(0, len(theirs), _AT_ONCE):
            others = theirs[begin : begin + _AT_ONCE]
            # The dot product of two rows of signs is 256 - 2 * distance.
            distances = (SIDE * SIDE - signs @ _signs([among[path] for path in others]).T) / 2
            for row, column in zip(*np.nonzero(distances <= most), strict=True):
                if of[some[row]].pixels != among[others[column]].pixels:
                    of_some[row].append(Twin(others[column], int(distances[row, column])))
        found.update((path, twin) for path, twin in zip(some, of_some, strict=True) if twin)
    return {path: sorted(of_it, key=_nearest) for path, of_it in found.items()}


def _nearest(twin: Twin[P]) -> tuple[int, Path]:
    return twin.distance, Path(twin.path)


def _signs(looks: Iterable[Look]) -> NDArray[np.float32]:
    """[looks, 256] of -1 and 1."""
    packed = np.frombuffer(b"".join(one.packed for one in looks), np.uint8)
    return np.unpackbits(packed).reshape(-1, SIDE * SIDE).astype(np.float32) * 2 - 1
