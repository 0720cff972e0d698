"""What the launches of the forward and of the backward share."""

from __future__ import annotations

import math

import torch
from torch import Tensor

# Warps of the kernels over words: a row of the widest C still fits in registers.
WORDS_WARPS = 4


def scale(scaled: bool, C: int) -> float:
    """The factor on S."""
    return 1 / math.sqrt(C) if scaled else 1.0


def empty_fp32(like: Tensor, *shape: int) -> Tensor:
    """Uninitialised fp32, on the device of ``like``."""
    return torch.empty(shape, dtype=torch.float32, device=like.device)


def aligned(tensor: Tensor) -> Tensor:
    """Contiguous, at a multiple of 16 bytes: TMA needs this, and other loads are wide only then."""
    tensor = tensor.contiguous()
    return tensor if tensor.data_ptr() % 16 == 0 else tensor.clone()
