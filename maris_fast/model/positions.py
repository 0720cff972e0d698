"""The position of a visual token in its image, as sines and cosines."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def sine_positions(h: int, w: int, channels: int, *, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Positions of an h × w grid, [h, w, C]; C/2 channels for the row, C/2 for the column.

    Coordinates run from 0 to 1 over the image whatever its size, so that 'left' is the same place in all.
    Frequencies are spaced evenly in log, from half a period over the image to 32 periods.
    """
    frequencies = math.pi * torch.logspace(
        0, math.log10(64), channels // 4, device=device, dtype=torch.float32
    )

    def waves(length: int) -> Tensor:
        at = (torch.arange(length, device=device, dtype=torch.float32) + 0.5) / length
        return torch.cat([torch.sin(at[:, None] * frequencies), torch.cos(at[:, None] * frequencies)], dim=1)

    rows = waves(h)[:, None, :].expand(h, w, -1)
    columns = waves(w)[None, :, :].expand(h, w, -1)
    return torch.cat([rows, columns], dim=2).to(dtype)
