"""Converts COCO segmentations to one mask each."""

from __future__ import annotations

from typing import Any

from maris_fast.rle import Rle, compress, draw_polygons, overlap, require_whole, union

BOX_ALONE = (
    "objects that have a box and no mask; masks are what is trained on: export those, or make them from the "
    "boxes first, with SAM for example"
)
"""Value of ``Fault.kind``."""

_FARTHEST = 1_000_000
"""Largest absolute coordinate of a corner, in pixels; no image is as large."""


def union_mask(segmentation: Any, height: int, width: int) -> Rle:
    """The union of a segmentation's parts.

    Args:
        segmentation: whatever refer.py's ``getMask`` takes: a list of polygons (COCO), of run lengths
            (RRSIS-D) or of both, or run lengths alone; run lengths are compressed or not.

    Raises:
        ValueError: nothing that can be drawn, run lengths of another size, or a mask without a pixel.
    """
    whole = union(_parts(segmentation, height, width))
    if not whole.area:
        raise ValueError("its mask has no pixel")
    return whole


def is_box(segmentation: Any, bbox: Any) -> bool:
    """Whether a mask is just its bounding box, as exports without masks write it."""
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

    refer.py's ``getMask`` sums an annotation's parts, so these pixels are 2 or more there.
    """
    return overlap(_parts(segmentation, height, width))


def _parts(segmentation: Any, height: int, width: int) -> list[Rle]:
    """The masks of a segmentation's parts, at least one."""
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


def _from_polygons(polygons: list[Any], height: int, width: int) -> list[Rle]:
    drawable = _drawable(polygons)
    if len(polygons) == 4 and all(isinstance(number, int | float) for number in polygons):
        raise ValueError("it is four numbers, as of a box, and no mask")
    if not drawable:
        raise ValueError(
            "it has no polygon of three or more corners; a polygon is one list of numbers x1, y1, x2, y2, ..."
        )
    _require_near([number for polygon in drawable for number in polygon])
    try:
        return draw_polygons(drawable, height, width)
    except (TypeError, ValueError) as error:
        raise ValueError(f"its polygons cannot be drawn: {error}") from error


def _require_near(numbers: list[Any]) -> None:
    # pycocotools crashes on NaN, and its memory grows with the length of a polygon's outline.
    for number in numbers:
        if not isinstance(number, int | float):
            raise ValueError(
                f"its polygons cannot be drawn: {str(number)[:40]!r} is not a number; a polygon is one list "
                "of numbers x1, y1, x2, y2, ..."
            )
        if not abs(number) <= _FARTHEST:
            raise ValueError(f"its polygons cannot be drawn: they have a corner at {number}")


def _from_run_lengths(rle: dict[str, Any], height: int, width: int) -> Rle:
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width]:
        raise ValueError(f"its run lengths are for size {size}, the image is {[height, width]}")
    if isinstance(counts, str):
        require_whole(counts, height, width)
        return Rle(size=(height, width), counts=counts)
    if not isinstance(counts, list) or not all(type(n) is int and n >= 0 for n in counts):
        raise ValueError("its run lengths have no counts")
    if sum(counts) != height * width:
        raise ValueError(f"its run lengths cover {sum(counts)} pixels of {height * width}")
    return compress(counts, height, width)
