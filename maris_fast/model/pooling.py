"""Visual tokens pooled 2 × 2 on their grid: the keys and values of eq. 6 with pooled self-attention."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maris_fast.config import ModelSettings


def decoder_keys(settings: ModelSettings, grid: tuple[int, int]) -> tuple[int, int]:
    """The grid of the keys of eq. 6 where that of its queries is (h, w)."""
    if settings.decoder_self_attention == "full":
        return grid
    return math.ceil(grid[0] / 2), math.ceil(grid[1] / 2)


def pooled(tokens: Tensor, grid: tuple[int, int]) -> Tensor:
    """Means over 2 × 2 tokens, [E, h·w, C] -> [E, ⌈h/2⌉·⌈w/2⌉, C]; of those that are there at an odd edge."""
    halved = _pairs_of_rows(tokens.unflatten(1, grid))
    return _pairs_of_rows(halved.transpose(1, 2)).transpose(1, 2).flatten(1, 2)


def _pairs_of_rows(maps: Tensor) -> Tensor:
    """Means over pairs of rows, [E, h, w, C] -> [E, ⌈h/2⌉, w, C]; the last of an odd h is its own pair."""
    # Nothing asks whether h is odd, as avg_pool2d does: compiled blocks would be compiled for each answer.
    once_more = torch.cat([maps, maps[:, -1:]], dim=1)
    return (maps[:, ::2] + once_more[:, 1::2]) / 2
