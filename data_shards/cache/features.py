"""Feature maps as they are stored: int8 with a scale a channel and image, or float16."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maris_fast.errors import InputError

_INT8_MAX = 127
_FLOAT16_MAX = torch.finfo(torch.float16).max


def quantise(level: Tensor) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Int8 features and their scales: ``level`` is about ``q * scale``.

    Args:
        level: float [h, w, C_v].

    Returns:
        q, int8 [h, w, C_v], and scale, float32 [C_v], the channel's largest magnitude over 127. A channel
        of zeros has scale 0.

    Raises:
        InputError: a feature is not finite.
    """
    largest = level.abs().amax(dim=(0, 1))
    if not torch.isfinite(largest).all():
        raise InputError("the image encoder gave features that are not finite; try precision = fp32")
    scale = largest / _INT8_MAX
    divisor = torch.where(scale > 0, scale, torch.ones_like(scale))
    q = (level / divisor).round().clamp(-_INT8_MAX, _INT8_MAX).to(torch.int8)
    return q.cpu().numpy(), scale.float().cpu().numpy()


def to_float16(values: Tensor, *, what: str, remedy: str) -> NDArray[np.float16]:
    """Float16 of ``values``, any shape.

    Raises:
        InputError: a value is not finite or beyond float16; the message names ``what`` and the ``remedy``.
    """
    largest = values.abs().max().item() if values.numel() else 0.0
    if not largest <= _FLOAT16_MAX:
        raise InputError(f"{what} reach {largest:.4g}, float16 ends at {_FLOAT16_MAX:.0f}; {remedy}")
    return values.to(torch.float16).cpu().numpy()


def dequantise(stored: NDArray[np.generic], scale: NDArray[np.float32] | None, out: Tensor) -> None:
    """Stored features into ``out``, float32 [h, w, C_v]; ``scale`` [C_v] of int8 ones, None for float16."""
    out.copy_(torch.from_numpy(stored))
    if scale is not None:
        out.mul_(torch.from_numpy(scale))
