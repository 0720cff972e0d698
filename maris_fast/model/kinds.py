"""Which kinds of calls a model makes of the operations: what has to be proven for it."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import torch

from maris_fast.config import ModelSettings
from maris_fast.kernels.choice import Operation
from maris_fast.kernels.choice.operation import power_of_two
from maris_fast.kernels.mutual_attention import candidates as mutual
from maris_fast.kernels.mutual_attention.blocks import WORD_BLOCKS, smallest_block

# Of the paper: photographs of 1024 pixels in tokens of 16, and up to 32 words.
TOKENS, WORDS = (64 * 48,), 32


def of_model(
    settings: ModelSettings,
    dtype: torch.dtype,
    tokens: Iterable[int] = TOKENS,
    most_words: int = WORDS,
) -> list[tuple[Operation, Any]]:
    """The calls of a training and its evaluation, as (operation, kind).

    ``tokens``: numbers of visual tokens that images have; ``most_words``: of an expression. Implementations
    that the settings name are not asked about.
    """
    wanted: list[tuple[Operation, Any]] = []
    largest = smallest_block(most_words) or WORD_BLOCKS[-1]
    if settings.fusion == "mutual" and settings.ma_blocks and settings.mutual_attention_impl == "auto":
        blocks = [block for block in WORD_BLOCKS if block <= largest]
        lengths = sorted({power_of_two(count) for count in tokens})
        # The first block's tokens are an image's, those of the others an expression's own.
        groups = (True, False) if settings.ma_blocks > 1 else (True,)
        for words, length, grouped, gradient in product(blocks, lengths, groups, (True, False)):
            kind = mutual.Kind(_name(dtype), words, settings.channels, length, grouped, True, gradient)
            wanted.append((mutual.OPERATION, kind))
    return wanted


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
