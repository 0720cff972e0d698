"""What the launches of forward and backward share, and what their small kernels are compiled for."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from maris_fast.kernels.mutual_attention.blocks import WORDS_BY_TMA, Blocks
from maris_fast.kernels.triton_here import FP_FUSION

# Warps of the kernels over words: a row of the widest C still fits in registers.
WORDS_WARPS = 4
# Rows per program of the backward's first kernel over words.
WORDS_ROWS = 4
# Chunk of the Gram matrix's kernel, beside a backward that takes all channels at once.
GRAM_CHUNK = 64
# Elements per program of the kernel that sums an image's expressions.
SUM_BLOCK = 1024
# Prefetches for the Gram matrix's product; the others have none.
SMALL_STAGES = 3


@dataclass(frozen=True)
class Build:
    """What a small kernel is compiled for, by a call and ahead of time: constants, warps, prefetch stages."""

    constants: dict[str, int]
    warps: int
    stages: int = SMALL_STAGES

    @cached_property
    def options(self) -> dict[str, Any]:
        """The keyword arguments of a launch."""
        launch = {"num_warps": self.warps, "num_stages": self.stages, "enable_fp_fusion": FP_FUSION}
        return {**self.constants, **launch}


@lru_cache
def over_words(C: int, columns: bool) -> Build:
    """The kernels with a program for each word: the forward's, and the backward's last."""
    return Build({"C": C, "COLUMNS": columns, "BLOCK_C": triton.next_power_of_2(C)}, WORDS_WARPS)


@lru_cache
def over_rows_of_words(C: int, columns: bool) -> Build:
    """The backward's first kernel, with a program for WORDS_ROWS words."""
    return Build({**over_words(C, columns).constants, "BLOCK_R": WORDS_ROWS}, WORDS_WARPS)


@lru_cache
def gram_beside(sizes: Blocks, C: int) -> Build:
    """The Gram matrix of the words that the backward in ``sizes`` reads."""
    walk = sizes.backward
    words = WORDS_BY_TMA if walk.by_tma else sizes.words
    return Build({"C": C, "BLOCK_T": words, "CHUNK": walk.chunk or GRAM_CHUNK}, walk.warps)


@lru_cache
def over_expressions(C: int) -> Build:
    """The sum over an image's expressions, after the backward by TMA."""
    return Build({"C": C, "BLOCK": SUM_BLOCK}, WORDS_WARPS)


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


def tiles_by_tma(tensor: Tensor, rows: int, channels: int) -> TensorDescriptor:
    """Describes contiguous [N, L, C] as tiles of ``rows`` x ``channels`` of one of the N.

    With the strides of its shape: the tensor's own can be anything in a dimension of size 1, and TMA takes
    multiples of 16 bytes only.
    """
    N, L, C = tensor.shape
    return TensorDescriptor(tensor, [N, L, C], [L * C, C, 1], [1, rows, channels])
