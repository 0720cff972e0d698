"""What photographs show, so that a copy is met again under any name: exact, saved again, or resized.

Two marks of a photograph as it is seen, turned as EXIF says. One is a hash of its decoded pixels, which only
a copy without loss shares. The other is a perceptual hash of 256 bits (ImageHash's ``phash``: the signs,
about their median, of the lowest 16 x 16 frequencies of the grey image at 64 x 64), in which a copy that was
compressed or resized differs in few bits.

Measured on 128 photographs of COCO (docs/datasets.md): copies as JPEG, PNG or WebP, in half, in a quarter
or stretched to a square, differ in 10 bits at most, and no two photographs in fewer than 96. A copy that was
cut at its borders or framed is not met.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maris_fast.errors import InputError
from maris_fast.images import load_image

LOOK_ALIKE = 32
"""Bits of 256 in which two images differ at most if they are to look alike."""

SIDE = 16
THREADS = 4
_AT_ONCE = 2048


@dataclass(frozen=True)
class Look:
    """The marks of one photograph."""

    pixels: bytes
    bits: NDArray[np.bool_]
    """[256]."""


class Twin(NamedTuple):
    """A photograph that looks like another one."""

    path: Path
    distance: int
    """Bits that differ."""


def look_of(image: Image.Image) -> Look:
    """Of an RGB image."""
    import imagehash

    marks = hashlib.blake2b(repr(image.size).encode(), digest_size=16)
    marks.update(image.tobytes())
    return Look(marks.digest(), imagehash.phash(image, hash_size=SIDE).hash.ravel())


def looks_of(
    paths: Iterable[Path], progress: Callable[[int, int], None] | None = None
) -> tuple[dict[Path, Look], dict[Path, str]]:
    """The marks of image files, each looked at once, and why those that cannot be read have none.

    Args:
        progress: called with files looked at and how many there are.
    """

    def look(path: Path) -> Look | str:
        try:
            return look_of(load_image(path))
        except InputError as error:
            return str(error)

    every = list(dict.fromkeys(paths))
    seen: dict[Path, Look] = {}
    unseen: dict[Path, str] = {}
    with ThreadPoolExecutor(THREADS) as pool:
        for done, (path, found) in enumerate(zip(every, pool.map(look, every), strict=True), start=1):
            if isinstance(found, Look):
                seen[path] = found
            else:
                unseen[path] = found
            if progress is not None:
                progress(done, len(every))
    return seen, unseen


def twins(
    of: Mapping[Path, Look], among: Mapping[Path, Look], most: int = LOOK_ALIKE
) -> dict[Path, list[Twin]]:
    """Of each photograph those that look like it, the nearest first; without those of its very pixels.

    Args:
        most: bits in which they may differ.
    """
    if not of or not among:
        return {}
    ours, theirs = list(of), list(among)
    others = _signs([among[path] for path in theirs]).T
    found: dict[Path, list[Twin]] = {}
    for first in range(0, len(ours), _AT_ONCE):
        some = ours[first : first + _AT_ONCE]
        # Of signs, the product is 256 - 2 distance.
        distances = (SIDE * SIDE - _signs([of[path] for path in some]) @ others) / 2
        for row, column in zip(*np.nonzero(distances <= most), strict=True):
            path, other = some[row], theirs[column]
            if of[path].pixels != among[other].pixels:
                found.setdefault(path, []).append(Twin(other, int(distances[row, column])))
    return {path: sorted(of_it, key=lambda one: (one.distance, one.path)) for path, of_it in found.items()}


def _signs(looks: Iterable[Look]) -> NDArray[np.float32]:
    """[looks, 256] of -1 and 1."""
    return np.stack([one.bits for one in looks]).astype(np.float32) * 2 - 1
