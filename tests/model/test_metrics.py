from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as nps
from pycocotools import mask as coco_mask
from torch._subclasses.fake_tensor import FakeTensorMode

from maris_fast.metrics import SegmentationScores, pixel_overlap

MASKS = nps.arrays(bool, (6, 7))


def mask(*ones: int) -> np.ndarray:
    flat = np.zeros(20, dtype=bool)
    flat[list(ones)] = True
    return flat.reshape(4, 5)


def test_scores_of_three_expressions_computed_by_hand() -> None:
    scores = SegmentationScores()
    assert scores.update(mask(0, 1), mask(0, 1), "colour") == 1.0
    assert scores.update(mask(0, 1, 2), mask(1, 2, 3, 4), "shape") == 2 / 5
    assert scores.update(mask(), mask(7), "shape") == 0.0
    summary = scores.summary()
    assert summary["expressions"] == 3
    assert summary["oIoU"] == pytest.approx((2 + 2 + 0) / (2 + 5 + 1))
    assert summary["mIoU"] == pytest.approx((1 + 0.4 + 0) / 3)
    assert summary["Pr@50"] == pytest.approx(1 / 3)
    assert summary["kinds"]["shape"]["oIoU"] == pytest.approx(2 / 6)
    assert summary["kinds"]["colour"]["Pr@90"] == 1.0


def test_precision_is_strictly_above_its_threshold() -> None:
    scores = SegmentationScores()
    scores.update(mask(0), mask(0, 1))
    assert scores.summary()["Pr@50"] == 0.0


def test_two_empty_masks_agree() -> None:
    scores = SegmentationScores()
    assert scores.update(mask(), mask()) == 1.0
    assert scores.summary()["oIoU"] == 1.0


def test_no_expressions_is_said_and_not_divided_by() -> None:
    assert SegmentationScores().summary() == {"expressions": 0, "kinds": {}}


@given(
    st.lists(st.tuples(MASKS, MASKS, st.sampled_from([None, "a", "b"])), min_size=1, max_size=8), st.data()
)
def test_any_split_over_ranks_gives_the_same_scores(
    pairs: list[tuple[np.ndarray, np.ndarray, str | None]], data: st.DataObject
) -> None:
    whole, ranks = SegmentationScores(), [SegmentationScores() for _ in range(3)]
    for prediction, target, kind in pairs:
        whole.update(prediction, target, kind)
        ranks[data.draw(st.integers(0, 2))].update(prediction, target, kind)
    merged = SegmentationScores()
    for rank in ranks:
        merged.merge(rank.state())
    ours, theirs = merged.summary(), whole.summary()
    assert ours["expressions"] == theirs["expressions"]
    assert ours["oIoU"] == theirs["oIoU"]
    assert ours["mIoU"] == pytest.approx(theirs["mIoU"])
    assert ours["kinds"].keys() == theirs["kinds"].keys()


@given(MASKS, MASKS)
def test_iou_is_pycocotools_iou(prediction: np.ndarray, target: np.ndarray) -> None:
    if not (prediction.any() or target.any()):
        return
    encoded = [coco_mask.encode(np.asfortranarray(m.astype(np.uint8))) for m in (prediction, target)]
    wanted = coco_mask.iou(encoded[:1], encoded[1:], [0])[0, 0]
    assert SegmentationScores().update(prediction, target) == pytest.approx(wanted)


def test_masks_of_different_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="needed is one size"):
        SegmentationScores().update(np.zeros((2, 3), bool), np.zeros((3, 2), bool))


def test_a_batchs_overlap_gives_its_oiou_without_the_padding() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, 7, generator=random)
    targets = torch.rand(4, 6, 7, generator=random) > 0.6
    weights = torch.tensor([1.0, 1.0, 0.0, 1.0])
    scores = SegmentationScores()
    for one, target, weight in zip(logits, targets, weights, strict=True):
        if weight:
            scores.update((one > 0).numpy(), target.numpy())
    intersection, union = pixel_overlap(logits, targets, weights).tolist()
    assert intersection / union == scores.summary()["oIoU"]
    assert torch.equal(
        pixel_overlap(logits, targets.to(torch.uint8), weights), torch.tensor([intersection, union])
    )


def test_a_batchs_overlap_is_computed_without_reading_the_device() -> None:
    with FakeTensorMode():  # raises where a value would be needed on the host
        overlap = pixel_overlap(torch.empty(4, 6, 7), torch.empty(4, 6, 7), torch.empty(4))
    assert overlap.dtype == torch.int64
