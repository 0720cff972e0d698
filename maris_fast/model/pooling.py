"""Visual tokens pooled 2 × 2 on their grid: the keys and values of eq. 6 with pooled self-attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maris_fast.config import ModelSettings


def decoder_keys(settings: ModelSettings, grid: tuple[int, int]) -> tuple[int, int]:
    """The grid of eq. 6's keys, where ``grid`` (h, w) is that of its queries."""
    if settings.decoder_self_attention == "full":
        return grid
    return math.ceil(grid[0] / 2), math.ceil(grid[1] / 2)


def pooled(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means over 2 × 2 tokens, [E, h·w, C] -> [E, ⌈h/2⌉·⌈w/2⌉, C]; over fewer tokens at an odd edge."""
    return _pairs(_pairs(tokens.unflatten(1, grid), 1), 2).flatten(1, 2)


def _pairs(maps: Tensor, side: int) -> Tensor:
    """Means over pairs along ``side``, n -> ⌈n/2⌉; the last of an odd n is paired with itself."""
    # No branch on whether n is odd, unlike avg_pool2d: a compiled or exported program would keep one case.
    once_more = torch.cat([maps, maps.narrow(side, maps.shape[side] - 1, 1)], side)
    return once_more.unfold(side, 2, 2).mean(-1)
