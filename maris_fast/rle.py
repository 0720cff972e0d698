"""Masks as COCO's compressed run lengths; nothing else calls pycocotools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from pydantic import BaseModel, ConfigDict, Field


class Rle(BaseModel):
    """A mask as COCO's compressed run lengths, at the image's original size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    size: tuple[int, int] = Field(description="height, width")
    counts: str

    @classmethod
    def encode(cls, pixels: NDArray[Any]) -> Rle:
        """Of [height, width]; what is not 0 is inside."""
        return _of(coco_mask.encode(np.asfortranarray(pixels != 0, dtype=np.uint8)))

    @classmethod
    def empty(cls, height: int, width: int) -> Rle:
        """Of an expression that means nothing in its image."""
        return cls.encode(np.zeros((height, width), np.uint8))

    def decode(self) -> NDArray[np.bool_]:
        """[height, width]."""
        pixels: NDArray[np.uint8] = coco_mask.decode(_for_coco(self))
        return pixels.view(np.bool_)

    @property
    def area(self) -> int:
        """Pixels inside."""
        return int(coco_mask.area(_for_coco(self)))

    @property
    def box(self) -> list[float]:
        """COCO's: left, top, width, height; zeros of an empty mask."""
        box: list[float] = coco_mask.toBbox(_for_coco(self)).tolist()
        return box


def union(masks: Sequence[Rle]) -> Rle:
    """Of masks of one size, at least one."""
    return _of(coco_mask.merge([_for_coco(one) for one in masks]))


def overlap(masks: Sequence[Rle]) -> Rle:
    """The pixels inside two or more of some masks of one size, at least one."""
    twice = np.zeros(masks[0].size, np.uint8)
    if len(masks) > 1:
        twice[coco_mask.decode([_for_coco(one) for one in masks]).sum(axis=2) > 1] = 1
    return Rle.encode(twice)


def iou(one: Rle, other: Rle) -> float:
    """I / U; two empty masks agree, which is 1."""
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
    """Of pixels outside, inside, outside ..., which cover height * width."""
    return _of(coco_mask.frPyObjects({"size": [height, width], "counts": runs}, height, width))


def require_whole(counts: str, height: int, width: int) -> None:
    """Of counts that end early, pycocotools decodes unwritten memory.

    Raises:
        ValueError: the counts are damaged, or do not cover height * width pixels.
    """
    runs = decompress(counts)
    if min(runs, default=0) < 0:
        raise ValueError("its run lengths are damaged: one is negative")
    if sum(runs) != height * width:
        raise ValueError(f"its run lengths are damaged: they cover {sum(runs)} pixels of {height * width}")


def decompress(counts: str) -> list[int]:
    """Numbers of pixels outside, inside, outside ... of the mask, as ``rleFrString`` of pycocotools reads it.

    Raises:
        ValueError: no such string, or one that was cut.
    """
    runs: list[int] = []
    number = shift = 0
    for one in counts.encode("utf-8"):
        bits = one - 48
        if not 0 <= bits < 64:
            raise ValueError(f"its run lengths are damaged: {chr(one)!r} is none of their characters")
        number |= (bits & 31) << shift
        shift += 5
        if bits & 32:  # the number goes on
            continue
        if bits & 16:  # it is negative
            number |= -1 << shift
        runs.append(number + runs[-2] if len(runs) > 2 else number)
        number = shift = 0
    if shift:
        raise ValueError("its run lengths are damaged: they end within a number")
    return runs


def _for_coco(mask: Rle) -> dict[str, Any]:
    return {"size": list(mask.size), "counts": mask.counts.encode()}


def _of(coded: dict[str, Any]) -> Rle:
    return Rle(size=tuple(coded["size"]), counts=coded["counts"].decode("ascii"))
