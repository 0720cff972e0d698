"""Visual tokens pooled 2 × 2 on their grid: the keys and values of eq. 6 with pooled self-attention."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from maris_fast.config import ModelSettings


def decoder_keys(settings: ModelSettings, grid: tuple[int, int]) -> tuple[int, int]:
    """The grid of the keys of eq. 6 where that of its queries is (h, w)."""
    if settings.decoder_self_attention == "full":
        return grid
    return math.ceil(grid[0] / 2), math.ceil(grid[1] / 2)


def pooled(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means over 2 × 2 tokens, [E, h·w, C] -> [E, ⌈h/2⌉·⌈w/2⌉, C]; of those that are there at an odd edge."""
    maps = tokens.transpose(1, 2).unflatten(2, grid)
    means = F.avg_pool2d(maps, 2, ceil_mode=True, count_include_pad=False)
    return means.flatten(2).transpose(1, 2)
