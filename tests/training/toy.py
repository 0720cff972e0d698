"""A model and batches with MARIS' interface, small enough to train in milliseconds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from maris_fast.model import Segmentation

VISUAL, TEXT, GRID, WORDS = 6, 5, 3, 4


class ToyModel(nn.Module):
    """Odd sizes on purpose: no number of ranks divides its parameters."""

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


@dataclass(frozen=True)
class ToyBatch:
    features: tuple[Tensor, ...]
    words: Tensor
    word_mask: Tensor
    expr_offsets: Tensor
    targets: Tensor
    weights: Tensor
    step_expressions: int

    def part(self, index: int, parts: int) -> ToyBatch:
        """One of the equal parts that ranks and accumulation steps take; one expression an image."""
        size = len(self.words) // parts
        mine = slice(index * size, (index + 1) * size)
        return replace(
            self,
            features=tuple(feature[mine] for feature in self.features),
            words=self.words[mine],
            word_mask=self.word_mask[mine],
            expr_offsets=torch.arange(size + 1, dtype=torch.int32),
            targets=self.targets[mine],
            weights=self.weights[mine],
        )


def toy_batch(step: int, expressions: int = 8) -> ToyBatch:
    """The step's whole batch; its last expression is padding."""
    random = torch.Generator().manual_seed(step)
    weights = torch.ones(expressions)
    weights[-1] = 0
    return ToyBatch(
        features=tuple(torch.randn(expressions, GRID, GRID, VISUAL, generator=random) for _ in range(3)),
        words=torch.randn(expressions, WORDS, TEXT, generator=random),
        word_mask=torch.ones(expressions, WORDS, dtype=torch.bool),
        expr_offsets=torch.arange(expressions + 1, dtype=torch.int32),
        targets=(torch.rand(expressions, 4 * GRID, 4 * GRID, generator=random) > 0.7).to(torch.uint8),
        weights=weights,
        step_expressions=expressions - 1,
    )
