"""The kinds of calls that a model makes to the operations, which have to be proven for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from itertools import product
from typing import Any

import torch

from maris_fast.config import ModelSettings
from maris_fast.kernels.choice import Operation
from maris_fast.kernels.choice.operation import POWERS, power_of_two
from maris_fast.kernels.cross_attention import candidates as cross
from maris_fast.kernels.multihead_attention import candidates as multihead
from maris_fast.kernels.mutual_attention import candidates as mutual
from maris_fast.kernels.mutual_attention.blocks import WORD_BLOCKS, smallest_block
from maris_fast.model.mutual_aware_attention import reading_of
from maris_fast.model.pooling import decoder_keys

# The paper's: photographs of 1024 pixels in patches of 16, and up to 32 words.
GRIDS, WORDS = ((64, 48),), 32


def of_model(
    settings: ModelSettings,
    dtype: torch.dtype,
    grids: Iterable[tuple[int, int]] = GRIDS,
    most_words: int = WORDS,
) -> list[tuple[Operation, Any]]:
    """The calls of a training run and its evaluation, as (operation, kind).

    ``grids``: (h, w) of the images' visual tokens; ``most_words``: the most words in an expression.
    Operations whose implementation is named in the settings are omitted.
    """
    grids = list(grids)
    name, lengths = str(dtype).removeprefix("torch."), sorted({power_of_two(h * w) for h, w in grids})
    wanted = [
        *_attention(settings, name, grids, most_words),
        *_cross_attention(settings, name, lengths, most_words),
        *_mutual_attention(settings, name, lengths, most_words),
    ]
    return list(dict.fromkeys(wanted))


def _mutual_attention(
    settings: ModelSettings, dtype: str, lengths: list[int], most_words: int
) -> Iterator[tuple[Operation, Any]]:
    """Calls of the MA blocks: visual tokens are per image in the first, per expression in the others."""
    if settings.fusion != "mutual" or not settings.ma_blocks or settings.mutual_attention_impl != "auto":
        return
    largest = smallest_block(most_words) or WORD_BLOCKS[-1]
    blocks = [block for block in WORD_BLOCKS if block <= largest]
    groups = (True, False) if settings.ma_blocks > 1 else (True,)
    reading = reading_of(settings)
    for words, length, grouped, gradient in product(blocks, lengths, groups, (True, False)):
        kind = mutual.Kind(dtype, words, settings.channels, length, grouped, True, gradient, *reading)
        yield mutual.OPERATION, kind


def _attention(
    settings: ModelSettings, dtype: str, grids: list[tuple[int, int]], most_words: int
) -> Iterator[tuple[Operation, Any]]:
    """Calls of the decoder, eqs. 6 to 8: tokens to themselves, words to themselves, tokens to words."""
    if settings.decoder != "maris" or settings.attention_impl != "auto":
        return
    words = power_of_two(most_words + 1)
    shapes = [(words, words, True)]
    for grid in sorted(grids):
        length, keys = (power_of_two(math.prod(of)) for of in (grid, decoder_keys(settings, grid)))
        shapes += [(length, keys, False), (length, words, True)]
    for (queries, keys, masked), gradient in product(shapes, (True, False)):
        head_dim = settings.channels // settings.heads
        kind = multihead.Kind(dtype, settings.heads, head_dim, queries, keys, masked, gradient)
        yield multihead.OPERATION, kind


def _cross_attention(
    settings: ModelSettings, dtype: str, lengths: list[int], most_words: int
) -> Iterator[tuple[Operation, Any]]:
    """Calls of eq. 8 in the decoder, with its projections; keys are the words and the query token."""
    if settings.decoder != "maris" or settings.cross_attention_impl != "auto":
        return
    largest = power_of_two(most_words + 1, least=16)
    keys = [power for power in POWERS if power <= largest]
    C, heads = settings.channels, settings.heads
    for length, many, gradient in product(lengths, keys, (True, False)):
        yield cross.OPERATION, cross.Kind(dtype, heads, C // heads, C, length, many, True, gradient)
