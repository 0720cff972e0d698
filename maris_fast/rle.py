"""Masks as COCO's compressed run lengths; the only module that calls pycocotools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pydantic import BaseModel, ConfigDict, Field

_LONGEST = 7
"""Most characters of a number: 35 bits."""


class Rle(BaseModel):
    """A mask as COCO's compressed run lengths, at the image's original size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[int, int] = Field(description="height, width")
    counts: str

    @classmethod
    def encode(cls, pixels: NDArray[Any]) -> Rle:
        """Encode [height, width]; pixels that are not 0 are inside."""
        return _of(coco_mask.encode(np.asfortranarray(pixels != 0, dtype=np.uint8)))

    @classmethod
    def empty(cls, height: int, width: int) -> Rle:
        """The mask of an expression that refers to nothing in its image."""
        return cls.encode(np.zeros((height, width), np.uint8))

    def decode(self) -> NDArray[np.bool_]:
        """The mask as [height, width], in row-major order.

        Raises:
            ValueError: the counts are damaged, or do not cover the image.
        """
        height, width = self.size
        runs = require_whole(self.counts, height, width)
        edges = np.cumsum(runs)[: len(runs) // 2 * 2]
        pixels = np.zeros(self.size, np.bool_)
        if not len(edges):
            return pixels
        # Run lengths go down the columns; only columns with pixels inside are transposed.
        left, right = edges[0] // height, -(-edges[-1] // height)
        lengths = np.diff(edges, prepend=left * height, append=right * height)
        inside = np.arange(len(lengths)) % 2 == 1
        pixels[:, left:right] = np.repeat(inside, lengths).reshape(-1, height).T
        return pixels

    @property
    def area(self) -> int:
        """Number of pixels inside."""
        return int(coco_mask.area(_for_coco(self)))

    @property
    def box(self) -> list[float]:
        """COCO's bounding box: left, top, width, height; zeros for an empty mask."""
        box: list[float] = coco_mask.toBbox(_for_coco(self)).tolist()
        return box


def union(masks: Sequence[Rle]) -> Rle:
    """Union of masks of one size; at least one."""
    return _of(coco_mask.merge([_for_coco(one) for one in masks]))


def overlap(masks: Sequence[Rle]) -> Rle:
    """The pixels inside two or more masks of one size; at least one mask."""
    if len(masks) == 1:
        return Rle.empty(*masks[0].size)
    return Rle.encode(np.sum([one.decode() for one in masks], axis=0) > 1)


def iou(one: Rle, other: Rle) -> float:
    """I / U; 1 for two empty masks."""
    if not one.area and not other.area:
        return 1.0
    return float(coco_mask.iou([_for_coco(one)], [_for_coco(other)], [0])[0, 0])


def draw_polygons(polygons: Sequence[Sequence[float]], height: int, width: int) -> list[Rle]:
    """Each polygon's pixels; a polygon is x1, y1, x2, y2, ... of three or more corners.

    Raises:
        ValueError, TypeError: pycocotools cannot draw one.
    """
    return [_of(one) for one in coco_mask.frPyObjects(polygons, height, width)]


def compress(runs: Sequence[int], height: int, width: int) -> Rle:
    """Compress numbers of pixels outside, inside, outside ..., which cover height * width."""
    return _of(coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width))


def require_whole(counts: str, height: int, width: int) -> NDArray[np.int64]:
    """``decompress``, but refuse counts that do not cover the image: pycocotools would read unwritten memory.

    Raises:
        ValueError: the counts are damaged, or do not cover height * width pixels.
    """
    runs = decompress(counts)
    if runs.min(initial=0) < 0:
        raise ValueError("its run lengths are damaged: one is negative")
    if runs.sum() != height * width:
        raise ValueError(f"its run lengths are damaged: they cover {runs.sum()} pixels of {height * width}")
    return runs


def decompress(counts: str) -> NDArray[np.int64]:
    """Numbers of pixels outside, inside, outside ... the mask, as pycocotools' ``rleFrString`` reads them.

    A number is a few characters of five bits each, the lowest first; a sixth bit says that it continues, and
    the fifth of the last that it is negative. From the fourth number on, each is stored as the difference to
    the last but one.

    Raises:
        ValueError: the string is malformed or truncated.
    """
    characters = counts.encode()
    bits = np.frombuffer(characters, np.uint8) - np.uint8(ord("0"))
    if (bits > 63).any():
        wrong = chr(characters[int((bits > 63).argmax())])
        raise ValueError(f"its run lengths are damaged: {wrong!r} is none of their characters")
    ends = np.flatnonzero(bits < 32) + 1
    if len(bits) != (ends[-1] if len(ends) else 0):
        raise ValueError("its run lengths are damaged: they end within a number")
    if not len(ends):
        return ends
    lengths = np.diff(ends, prepend=0)
    if lengths.max() > _LONGEST:
        raise ValueError("its run lengths are damaged: one is larger than an image")
    starts = ends - lengths
    shifts = 5 * (np.arange(len(bits)) - np.repeat(starts, lengths))
    runs = np.add.reduceat((bits & 31).astype(np.int64) << shifts, starts)
    runs -= np.where(bits[ends - 1] & 16, 1 << 5 * lengths, 0)
    for first in (1, 2):
        np.cumsum(runs[first::2], out=runs[first::2])
    return runs


def _for_coco(mask: Rle) -> dict[str, Any]:
    return {"size": list(mask.size), "counts": mask.counts.encode()}


def _of(coded: dict[str, Any]) -> Rle:
    return Rle(size=tuple(coded["size"]), counts=coded["counts"].decode("ascii"))
