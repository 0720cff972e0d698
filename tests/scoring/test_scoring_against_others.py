"""Scores against those of pycocotools' run lengths and torchmetrics, on random and degenerate masks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from pycocotools import mask as coco_mask

from maris_fast import scoring
from maris_fast.data_shards.importers.segmentations import overlap_mask, union_mask
from maris_fast.scoring import MARIS, PROTOCOLS, Rows
from maris_fast.scoring.comparing import Comparer
from maris_fast.scoring.protocols import count
from tests.scoring.cases import box, coded, count_of, sample_of

H, W = 9, 13
EMPTY, FULL, PIXEL = box(H, W, 0, 0, 0, 0), box(H, W, 0, 0, H, W), box(H, W, 4, 5, 5, 6)
LEFT, MIDDLE = box(H, W, 0, 0, H, 8), box(H, W, 2, 4, 7, 11)

MASKS = nps.arrays(bool, (H, W)) | st.sampled_from([EMPTY, FULL, PIXEL, LEFT, MIDDLE])
PAIRS = st.lists(st.tuples(MASKS, MASKS), min_size=1, max_size=6)


@pytest.fixture(scope="module")
def torchmetrics() -> Any:
    """Imported only in the worker that runs this file, since it loads all of scipy.signal and scipy.stats."""
    import torchmetrics.classification
    import torchmetrics.segmentation

    return torchmetrics


def scores(pairs: Sequence[tuple[np.ndarray, np.ndarray]], name: str = "maris") -> dict[str, Any]:
    protocol, rows = PROTOCOLS[name], Rows([PROTOCOLS[name], PROTOCOLS["phrasecut"]])
    for number, (prediction, truth) in enumerate(pairs):
        counts = [count_of(one, prediction, truth) for one in rows.protocols]
        rows.add_counts(counts, sample_of(truth, image_id=number))
    of_all: dict[str, Any] = scoring.whole(rows.table(), bootstrap=0)["protocols"][protocol.name]
    return of_all


@given(MASKS, MASKS)
@example(EMPTY, EMPTY)
@example(EMPTY, FULL)
@example(FULL, EMPTY)
@example(PIXEL, FULL)
@example(PIXEL, PIXEL)
@example(LEFT, MIDDLE)
def test_intersection_union_and_iou_are_pycocotools(prediction: np.ndarray, truth: np.ndarray) -> None:
    both = [coded(prediction), coded(truth)]
    (pixels,) = Comparer([MARIS]).of_mask(prediction, sample_of(truth))
    ours = count(MARIS, pixels, None, targetless=False)
    assert ours.intersection == coco_mask.area(coco_mask.merge(both, intersect=True))
    assert ours.union == coco_mask.area(coco_mask.merge(both))
    if ours.union:  # pycocotools has no IoU of two empty masks
        assert ours.iou == pytest.approx(coco_mask.iou(both[:1], both[1:], [0])[0, 0])


@given(PAIRS)
@example([(EMPTY, FULL), (FULL, FULL)])
@example([(EMPTY, EMPTY), (PIXEL, PIXEL), (PIXEL, FULL)])
def test_oiou_is_torchmetrics_jaccard_index_of_all_pixels(
    torchmetrics: Any, pairs: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    theirs = torchmetrics.classification.BinaryJaccardIndex()
    for prediction, truth in pairs:
        theirs.update(torch.from_numpy(prediction), torch.from_numpy(truth).int())
    if any(prediction.any() or truth.any() for prediction, truth in pairs):
        wanted = pytest.approx(theirs.compute().item(), rel=1e-6)  # float32
        assert scores(pairs)["oIoU"] == wanted
        assert scores(pairs, "lavt")["oIoU"] == wanted


@given(PAIRS)
@example([(EMPTY, FULL), (FULL, FULL), (PIXEL, FULL)])
@example([(EMPTY, EMPTY)])
def test_miou_is_the_mean_of_torchmetrics_jaccard_indices(
    torchmetrics: Any, pairs: list[tuple[np.ndarray, np.ndarray]]
) -> None:
    """torchmetrics gives 0 for two empty masks, as LAVT and PhraseCut do."""
    ious = []
    for prediction, truth in pairs:
        one = torchmetrics.classification.BinaryJaccardIndex()
        ious.append(one(torch.from_numpy(prediction), torch.from_numpy(truth).int()).item())
    for name in ("lavt", "phrasecut"):
        assert scores(pairs, name)["mIoU"] == pytest.approx(np.mean(ious), rel=1e-6)
    empties = sum(not (prediction.any() or truth.any()) for prediction, truth in pairs)
    assert scores(pairs)["mIoU"] == pytest.approx(np.mean(ious) + empties / len(pairs), rel=1e-6)


@given(PAIRS)
def test_miou_is_torchmetrics_mean_iou_of_the_object_where_nothing_is_empty(
    torchmetrics: Any,
    pairs: list[tuple[np.ndarray, np.ndarray]],
) -> None:
    pairs = [(prediction, truth) for prediction, truth in pairs if prediction.any() and truth.any()]
    if pairs:
        theirs = torchmetrics.segmentation.MeanIoU(num_classes=2, per_class=True, input_format="index")
        predictions, truths = (torch.from_numpy(np.stack(masks)).long() for masks in zip(*pairs, strict=True))
        wanted = theirs(predictions, truths)[1].item()
        assert scores(pairs)["mIoU"] == pytest.approx(wanted, rel=1e-5)


def polygon(left: int, top: int, right: int, bottom: int) -> list[float]:
    return [left, top, right, top, right, bottom, left, bottom]


CORNERS = st.tuples(st.integers(0, 8), st.integers(0, 5), st.integers(1, 5), st.integers(1, 4))
POLYGONS = st.lists(
    CORNERS.map(lambda c: polygon(c[0], c[1], c[0] + c[2], c[1] + c[3])), min_size=1, max_size=4
)


@given(POLYGONS)
@example([polygon(1, 1, 5, 5), polygon(3, 1, 8, 5)])
@example([polygon(1, 1, 5, 5), polygon(1, 1, 5, 5)])
@example([polygon(0, 0, W, H)])
def test_union_and_overlap_of_polygons_are_pycocotools_merges(polygons: list[list[float]]) -> None:
    each = coco_mask.frPyObjects(polygons, H, W)
    union = union_mask(polygons, H, W)
    assert union.area == coco_mask.area(coco_mask.merge(each)) == union.decode().sum()
    pairs = [coco_mask.merge([a, b], intersect=True) for i, a in enumerate(each) for b in each[:i]]
    twice = coco_mask.decode(coco_mask.merge(pairs)) if pairs else np.zeros((H, W))
    assert np.array_equal(overlap_mask(polygons, H, W).decode(), twice)
    # The pixels that LAVT keeps of refer.py's sum over polygons.
    once = coco_mask.decode(each).sum(axis=2) == 1
    assert np.array_equal(once, union.decode() & ~(twice > 0))


def test_run_lengths_have_no_pixel_twice() -> None:
    rle = {"size": [H, W], "counts": [3, 5, H * W - 8]}
    assert overlap_mask(rle, H, W).decode().sum() == 0
