"""COCO segmentations, or pixels, to one mask."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from maris_fast.data_shards.records import Rle
from maris_fast.data_shards.run_lengths import require_whole

BOX_ALONE = (
    "objects that have a box and no mask; masks are what is trained on: export those, or make them from the "
    "boxes first, with SAM for example"
)
"""Kind of fault."""

_FARTHEST = 1_000_000
"""A corner's distance from the image, in pixels; no image is as large."""


def union_mask(segmentation: Any, height: int, width: int) -> tuple[Rle, int]:
    """The union of a segmentation's parts, and its area in pixels.

    Args:
        segmentation: whatever refer.py's ``getMask`` takes: a list of polygons (COCO), of run lengths
            (RRSIS-D) or of both, or run lengths alone; run lengths are compressed or not.

    Raises:
        ValueError: nothing that can be drawn, run lengths of another size, or a mask without a pixel.
    """
    merged = coco_mask.merge(_parts(segmentation, height, width))
    area = int(coco_mask.area(merged))
    if area == 0:
        raise ValueError("its mask has no pixel")
    return Rle(size=(height, width), counts=merged["counts"].decode("ascii")), area


def is_box(segmentation: Any, bbox: Any) -> bool:
    """Whether a mask is nothing but the box around it, as exports without masks write it."""
    try:
        ((*numbers,),) = segmentation
        left, top, width, height = bbox
        corners = set(zip(numbers[::2], numbers[1::2], strict=True))
        right, bottom = left + width, top + height
    except (TypeError, ValueError):
        return False
    return corners == {(left, top), (right, top), (right, bottom), (left, bottom)}


def overlap_mask(segmentation: Any, height: int, width: int) -> Rle:
    """The pixels inside two or more parts of a segmentation that ``union_mask`` takes.

    refer.py's ``getMask`` sums an annotation's parts, so there it has a 2.
    """
    parts = _parts(segmentation, height, width)
    twice = np.zeros((height, width), np.uint8)
    if len(parts) > 1:
        twice[coco_mask.decode(parts).sum(axis=2) > 1] = 1
    return mask_of_pixels(twice)[0]


def _parts(segmentation: Any, height: int, width: int) -> list[dict[str, Any]]:
    """Compressed run lengths, at least one."""
    if isinstance(segmentation, dict):
        return [_from_run_lengths(segmentation, height, width)]
    if not isinstance(segmentation, list):
        raise ValueError("it has neither polygons nor run lengths")
    rles = [_from_run_lengths(part, height, width) for part in segmentation if isinstance(part, dict)]
    polygons = [part for part in segmentation if not isinstance(part, dict)]
    return rles + (_from_polygons(polygons, height, width) if polygons or not rles else [])


def _drawable(polygons: list[Any]) -> list[list[float]]:
    # COCO has a few points and lines among its polygons; pycocotools would take four numbers for a box.
    return [p for p in polygons if isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0]


def _from_polygons(polygons: list[Any], height: int, width: int) -> list[dict[str, Any]]:
    drawable = _drawable(polygons)
    if len(polygons) == 4 and all(isinstance(number, int | float) for number in polygons):
        raise ValueError("it is four numbers, as of a box, and no mask")
    if not drawable:
        raise ValueError(
            "it has no polygon of three or more corners; a polygon is one list of numbers x1, y1, x2, y2, ..."
        )
    _require_near([number for polygon in drawable for number in polygon])
    try:
        drawn: list[dict[str, Any]] = coco_mask.frPyObjects(drawable, height, width)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its polygons cannot be drawn: {error}") from error
    return drawn


def _require_near(numbers: list[Any]) -> None:
    # pycocotools crashes on NaN, and takes memory by the polygon's length.
    for number in numbers:
        if not isinstance(number, int | float):
            raise ValueError(
                f"its polygons cannot be drawn: {str(number)[:40]!r} is no number; a polygon is one list of "
                "numbers x1, y1, x2, y2, ..."
            )
        if not abs(number) <= _FARTHEST:
            raise ValueError(f"its polygons cannot be drawn: they have a corner at {number}")


def _from_run_lengths(rle: dict[str, Any], height: int, width: int) -> dict[str, Any]:
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width]:
        raise ValueError(f"its run lengths are for size {size}, the image is {[height, width]}")
    if isinstance(counts, str):
        require_whole(counts, height, width)
        return {"size": size, "counts": counts.encode()}
    if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
        raise ValueError("its run lengths have no counts")
    if sum(counts) != height * width:
        raise ValueError(f"its run lengths cover {sum(counts)} pixels of {height * width}")
    uncompressed: dict[str, Any] = coco_mask.frPyObjects(rle, height, width)
    return uncompressed


def union_of(masks: Sequence[Rle]) -> tuple[Rle, int]:
    """The union of masks of one size, at least one, and its area in pixels."""
    merged = coco_mask.merge([{"size": list(one.size), "counts": one.counts.encode()} for one in masks])
    return Rle(size=masks[0].size, counts=merged["counts"].decode("ascii")), int(coco_mask.area(merged))


def mask_of_pixels(pixels: NDArray[Any]) -> tuple[Rle, int]:
    """The pixels [height, width] that are not 0, and how many they are; none is no error here."""
    inside = np.asfortranarray(pixels != 0, dtype=np.uint8)
    counts = coco_mask.encode(inside)["counts"].decode("ascii")
    return Rle(size=(pixels.shape[0], pixels.shape[1]), counts=counts), int(inside.sum())


def empty_mask(height: int, width: int) -> Rle:
    """Of an expression that means nothing in its image."""
    return mask_of_pixels(np.zeros((height, width), np.uint8))[0]
