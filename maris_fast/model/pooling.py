"""Visual tokens pooled 2 × 2 on their grid: the keys and values of eq. 6 with pooled self-attention."""

from __future__ import annotations

import math

import torch
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
    # The last row and column once more: a cell at an odd edge has each of its tokens twice, even sides leave
    # them out. ``ceil_mode`` asks which it is, and compiled blocks would be compiled again for each.
    maps = tokens.unflatten(1, grid)
    maps = torch.cat([maps, maps[:, -1:]], dim=1)
    maps = torch.cat([maps, maps[:, :, -1:]], dim=2)
    return F.avg_pool2d(maps.permute(0, 3, 1, 2), 2).permute(0, 2, 3, 1).flatten(1, 2)
