"""A model and batches with MARIS' interface, small enough to train in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from maris_fast.data_shards.stream import Batch
from maris_fast.geometry import ImageGeometry
from maris_fast.model import Segmentation
from maris_fast.rle import Rle
from maris_fast.sample import Sample

VISUAL, TEXT, GRID, WORDS = 6, 5, 3, 4


class ToyModel(nn.Module):
    """Odd sizes on purpose: its parameters cannot be divided evenly among ranks."""

    def __init__(self, batch_norm: bool = False, width: int = 7) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.visual = nn.Linear(VISUAL, width)
        self.norm = nn.BatchNorm2d(width) if batch_norm else nn.Identity()
        self.text = nn.Linear(TEXT, width)
        self.scale = nn.Parameter(torch.tensor([1.5]))
        self.tau = 0.0

    def forward(
        self, features: Sequence[Tensor], words: Tensor, word_mask: Tensor, expr_offsets: Tensor
    ) -> Segmentation:
        pixels = self.visual(sum(features)).permute(0, 3, 1, 2)
        pixels = self.norm(pixels).repeat_interleave(expr_offsets.diff(), 0)
        query = (self.text(words) * word_mask[..., None]).sum(1)
        logits = torch.einsum("echw,ec->ehw", torch.tanh(pixels), query) * self.scale
        return Segmentation(nn.functional.interpolate(logits[:, None], scale_factor=4)[:, 0], None)


def toy_batch(step: int, expressions: int = 8) -> Batch:
    """The step's whole batch; its last expression is padding."""
    random = torch.Generator().manual_seed(step)
    weights = torch.ones(expressions)
    weights[-1] = 0
    first, second, third = (torch.randn(expressions, GRID, GRID, VISUAL, generator=random) for _ in range(3))
    words = torch.randn(expressions, WORDS, TEXT, generator=random)
    targets = torch.rand(expressions, 4 * GRID, 4 * GRID, generator=random) > 0.7
    return Batch(
        features=(first, second, third),
        words=words,
        word_mask=torch.ones(expressions, WORDS, dtype=torch.bool),
        expr_offsets=torch.arange(expressions + 1, dtype=torch.int32),
        targets=targets,
        weights=weights,
        step_expressions=expressions - 1,
        describe=partial(_samples, targets),
    )


def part_of(whole: Batch, index: int, parts: int) -> Batch:
    """One of the equal parts for the ranks and accumulation steps; one expression per image."""
    size = whole.expressions // parts
    mine = slice(index * size, (index + 1) * size)
    first, second, third = (feature[mine] for feature in whole.features)
    return replace(
        whole,
        features=(first, second, third),
        words=whole.words[mine],
        word_mask=whole.word_mask[mine],
        expr_offsets=torch.arange(size + 1, dtype=torch.int32),
        targets=whole.targets[mine],
        weights=whole.weights[mine],
        describe=partial(_samples, whole.targets[mine]),
    )


def _samples(targets: Tensor) -> tuple[Sample, ...]:
    pixels = targets.repeat_interleave(4, 1).repeat_interleave(4, 2).numpy()
    geometry = ImageGeometry.unresized(*pixels[0].shape)
    return tuple(
        Sample(number, 0, 0, "toy", Rle.encode(mask), geometry, image="toy.png", kind="toy")
        for number, mask in enumerate(pixels)
    )
