"""Stored form of feature maps: int8 or fp8 with a scale per channel and image, or bfloat16."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maris_fast.config import FeatureDtype
from maris_fast.errors import InputError

_FLOAT16_MAX = torch.finfo(torch.float16).max


@dataclass(frozen=True)
class Stored:
    """Type of the numbers in a shard; ``bits`` is that in a ``.npy``, as numpy has no fp8 or bf16."""

    dtype: torch.dtype
    bits: type[np.generic]
    largest: float | None
    """Stored value of a channel's largest magnitude; None: no scales."""


STORED: dict[FeatureDtype, Stored] = {
    "int8": Stored(torch.int8, np.int8, 127),
    "fp8": Stored(torch.float8_e4m3fn, np.uint8, torch.finfo(torch.float8_e4m3fn).max),
    "bf16": Stored(torch.bfloat16, np.uint16, None),
}


def to_stored(level: Tensor, dtype: FeatureDtype) -> tuple[NDArray[Any], NDArray[np.float32] | None]:
    """Stored features and their scales: ``level`` is approximately ``q * scale``.

    Args:
        level: float [h, w, C_v].
        dtype: the stored type.

    Returns:
        q, [h, w, C_v] as the ``bits`` of ``STORED[dtype]``, and scale, float32 [C_v]: the channel's largest
        magnitude divided by the largest stored number, 0 for a channel of zeros. None for bf16.

    Raises:
        InputError: a feature is not finite.
    """
    stored = STORED[dtype]
    largest = level.abs().amax(dim=(0, 1))
    if not torch.isfinite(largest).all():
        raise InputError("the image encoder gave features that are not finite; try precision = fp32")
    if stored.largest is None:
        return _bits(level.to(stored.dtype), stored), None
    scale = largest / stored.largest
    q = level / torch.where(scale > 0, scale, torch.ones_like(scale))
    if not stored.dtype.is_floating_point:
        q = q.round()
    q = q.clamp(-stored.largest, stored.largest).to(stored.dtype)
    return _bits(q, stored), scale.float().cpu().numpy()


def as_tensor(bits: NDArray[Any], dtype: FeatureDtype) -> Tensor:
    """The stored numbers as a tensor of their own type, sharing the memory."""
    stored = STORED[dtype]
    return torch.from_numpy(bits.view(np.uint8)).view(stored.dtype).view(bits.shape)


def from_stored(q: Tensor, scale: Tensor | None, out: Tensor) -> None:
    """Convert stored numbers to features, in ``out``.

    Args:
        q: from ``as_tensor``, [..., h, w, C_v].
        scale: float32, [C_v] or broadcasting to q; None for bf16.
        out: float of q's shape, on the same device.
    """
    if scale is None:
        out.copy_(q)
    elif q.is_cuda and not q.is_floating_point():
        torch.mul(q, scale, out=out)  # one pass; torch has no products of 8-bit floats
    else:
        # On a CPU, two passes over cached data: a product of mixed types copies both operands.
        out.copy_(q).mul_(scale)


def to_float16(values: Tensor, *, what: str, remedy: str) -> NDArray[np.float16]:
    """Convert ``values``, of any shape, to float16.

    Raises:
        InputError: a value is not finite or exceeds float16; the message names ``what`` and the ``remedy``.
    """
    largest = values.abs().max().item() if values.numel() else 0.0
    if not largest <= _FLOAT16_MAX:
        raise InputError(f"{what} reach {largest:.4g}, float16 ends at {_FLOAT16_MAX:.0f}; {remedy}")
    return values.to(torch.float16).cpu().numpy()


def _bits(q: Tensor, stored: Stored) -> NDArray[Any]:
    q = q.contiguous().cpu()
    return q.view(torch.uint8).numpy().view(stored.bits).reshape(q.shape)
