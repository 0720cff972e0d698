"""Compressed run lengths: read as pycocotools writes them, and refused where they do not cover the image."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from pycocotools import mask as coco_mask

from maris_fast.data_shards.importers.segmentations import union_mask
from maris_fast.rle import Rle, decompress, iou, overlap, require_whole, union

MASKS = nps.arrays(bool, st.tuples(st.integers(1, 40), st.integers(1, 40)))


@given(MASKS)
def test_numbers_are_those_of_the_mask_column_by_column(mask: np.ndarray) -> None:
    runs = decompress(Rle.encode(mask).counts)
    inside = np.repeat(np.arange(len(runs)) % 2, runs)
    assert np.array_equal(inside, mask.ravel(order="F"))
    require_whole(Rle.encode(mask).counts, *mask.shape)


@given(nps.arrays(bool, st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))))
def test_union_overlap_and_iou_are_those_of_the_pixels(masks: np.ndarray) -> None:
    coded = [Rle.encode(mask) for mask in masks]
    assert all(np.array_equal(one.decode(), mask) for one, mask in zip(coded, masks, strict=True))
    assert np.array_equal(union(coded).decode(), masks.any(0))
    assert np.array_equal(overlap(coded).decode(), masks.sum(0) > 1)
    assert union(coded).area == masks.any(0).sum()
    first, last = masks[0], masks[-1]
    both = (first | last).sum()
    assert iou(coded[0], coded[-1]) == ((first & last).sum() / both if both else 1)


@given(MASKS)
def test_pixels_are_those_of_pycocotools(mask: np.ndarray) -> None:
    coded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    decoded = Rle(size=mask.shape, counts=coded["counts"].decode()).decode()
    np.testing.assert_array_equal(decoded, coco_mask.decode(coded).astype(bool), strict=True)


@given(MASKS, st.data())
def test_counts_that_were_cut_are_refused(mask: np.ndarray, data: st.DataObject) -> None:
    counts = Rle.encode(mask).counts
    cut = counts[: data.draw(st.integers(0, len(counts) - 1))]
    with pytest.raises(ValueError, match="damaged"):
        Rle(size=mask.shape, counts=cut).decode()
    with pytest.raises(ValueError, match="damaged"):
        require_whole(cut, *mask.shape)


@pytest.mark.parametrize("counts", ["", "0", "00", "x", "é", "PPYo1", "PPYo", "1O1", 14 * "o" + "0"])
def test_an_import_takes_no_mask_from_unwritten_memory(counts: str) -> None:
    """pycocotools decodes "00" of a 64 x 96 image to different bytes each time."""
    with pytest.raises(ValueError, match="damaged"):
        union_mask({"size": [64, 96], "counts": counts}, 64, 96)
