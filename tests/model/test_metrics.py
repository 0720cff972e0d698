from __future__ import annotations

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from maris_fast import scoring
from maris_fast.losses import pixel_overlap
from maris_fast.scoring import MARIS, Rows
from tests.scoring.cases import count_of, sample_of


def test_a_batchs_overlap_gives_its_oiou_without_the_padding() -> None:
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(4, 6, 7, generator=random)
    targets = torch.rand(4, 6, 7, generator=random) > 0.6
    weights = torch.tensor([1.0, 1.0, 0.0, 1.0])
    rows = Rows()
    for one, target, weight in zip(logits, targets, weights, strict=True):
        if weight:
            counted = count_of(MARIS, (one > 0).numpy(), target.numpy())
            rows.add_counts([counted], sample_of(target.numpy()))
    intersection, union = pixel_overlap(logits, targets, weights).tolist()
    assert intersection / union == scoring.headline(rows.table())["oIoU"]
    assert torch.equal(
        pixel_overlap(logits, targets.to(torch.uint8), weights), torch.tensor([intersection, union])
    )


def test_a_batchs_overlap_is_computed_without_reading_the_device() -> None:
    with FakeTensorMode():  # raises where a value would be needed on the host
        overlap = pixel_overlap(torch.empty(4, 6, 7), torch.empty(4, 6, 7), torch.empty(4))
    assert overlap.dtype == torch.int64
