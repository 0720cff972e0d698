"""Health of mutual-aware attention on a step's batch: whether eq. 4's gate stays open and words distinct.

For each block, before the optimiser's next step:

- ``kept_pairs``: share of pairs of pixel and real word that eq. 4 keeps;
- ``empty_pixels``, ``empty_words``: share of pixels that keep no word, of real words that no pixel keeps;
- ``score``: mean |S|;
- ``gathered``: norm of what eq. 5 adds to words divided by the norm of Z_l, both means over real words;
- ``cosine_before``, ``cosine_after``: mean cosine between different real words of an expression, in Z_l and
  in F_val.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from maris_fast.config import ModelSettings
from maris_fast.data_shards.stream import Batch
from maris_fast.kernels.mutual_attention import tokens_of_expressions
from maris_fast.kernels.mutual_attention.reference import attention_weights, gate, gathered, relevance
from maris_fast.model import Maris
from maris_fast.model.mutual_aware_attention import MutualAwareAttention

SHARES = {
    "kept_pairs": ("kept pairs", "pairs"),
    "empty_pixels": ("empty pixels", "pixels"),
    "empty_words": ("empty words", "words"),
    "score": ("|S|", "pairs"),
    "gathered": ("lengths gathered", "lengths"),
    "cosine_before": ("cosines before", "couples"),
    "cosine_after": ("cosines after", "couples"),
}
"""Each number as a ratio of two sums over the batch, which can be added over ranks."""
SUMS = sorted({name for ratio in SHARES.values() for name in ratio})

ALIKE, RISE = 0.8, 0.2
"""A block makes words alike if their mean cosine reaches ``ALIKE`` after it and rises by ``RISE``."""
MOST_EMPTY_PIXELS, MOST_EMPTY_WORDS = 0.3, 0.5


def has_attention(model: Maris) -> bool:
    """Whether the model has blocks of mutual-aware attention."""
    return any(isinstance(block, MutualAwareAttention) for block in model.ma_blocks)


@torch.no_grad()
def attention_sums(model: Maris, batch: Batch, bf16: bool = False) -> Tensor:
    """``SUMS`` of each block of a plain model, fp64 [blocks, len(SUMS)]; without expressions of weight 0.

    The model is left in evaluation mode. BatchNorm runs in training mode on the batch, so its running
    statistics must not be used afterwards.
    """
    word_mask = batch.word_mask & (batch.weights > 0)[:, None]
    sums = []
    with torch.autocast(batch.words.device.type, torch.bfloat16, enabled=bf16):
        model.train()
        f_v, grid = model.visual_tokens(batch.features)
        model.eval()
        f_l = batch.words
        groups: Tensor | None = batch.expr_offsets
        for block in model.ma_blocks:
            assert isinstance(block, MutualAwareAttention)
            f_lav, f_val = block(f_v, f_l, word_mask, model._tau, groups, grid)
            sums.append(_block_sums(block, f_v, f_l, f_val, word_mask, model._tau, groups))
            f_v, f_l, groups = f_lav, f_val, None
    return torch.stack(sums)


def _block_sums(
    block: MutualAwareAttention,
    f_v: Tensor,
    f_l: Tensor,
    f_val: Tensor,
    word_mask: Tensor,
    tau: Tensor,
    groups: Tensor | None,
) -> Tensor:
    z_v, z_l = block.z_v(f_v).float(), block.W_l(f_l).float()
    with torch.autocast(z_v.device.type, enabled=False):
        z_v = tokens_of_expressions(z_v, groups, len(z_l))
        S = relevance(z_v, z_l, block.reading)
        # What the gate itself keeps, and what attention then uses.
        kept = gate(S, tau, block.keep, word_mask)
        A = attention_weights(S, gate(S, tau, block.keep, word_mask, block.reading))
        U = gathered(A, z_v, block.reading)
        couples = word_mask[:, :, None] & word_mask[:, None, :]
        couples = couples & ~torch.eye(couples.shape[1], dtype=torch.bool, device=couples.device)
        real = word_mask[:, None, :].expand_as(S)
        with_words = word_mask.any(1)[:, None].expand(S.shape[:2])
        sums = {
            "pairs": real,
            "kept pairs": kept,
            "pixels": with_words,
            "empty pixels": with_words & ~kept.any(2),
            "words": word_mask,
            "empty words": word_mask & ~kept.any(1),
            "|S|": S.abs()[real],
            "lengths": vector_norm(z_l, dim=2)[word_mask],
            "lengths gathered": vector_norm(U, dim=2)[word_mask],
            "couples": couples,
            "cosines before": _cosines(z_l)[couples],
            "cosines after": _cosines(f_val.float())[couples],
        }
    return torch.stack([sums[name].sum(dtype=torch.float64) for name in SUMS])


def _cosines(words: Tensor) -> Tensor:
    unit = F.normalize(words, dim=2)
    return unit @ unit.transpose(1, 2)


def numbers(sums: Tensor) -> dict[str, float]:
    """``block_1/kept_pairs`` and so on; a ratio whose denominator is 0 is omitted."""
    found = {}
    for place, row in enumerate(sums.tolist(), 1):
        of = dict(zip(SUMS, row, strict=True))
        for name, (above, below) in SHARES.items():
            if of[below]:
                found[f"block_{place}/{name}"] = of[above] / of[below]
    return found


class Warnings:
    """Warnings about such numbers: each fault once, with the setting to change."""

    def __init__(self, settings: ModelSettings) -> None:
        self._settings = settings
        self._told: set[str] = set()

    def new(self, values: dict[str, Any]) -> list[str]:
        """Faults in ``values``, the result of ``numbers``, that were not reported before."""
        found: dict[str, str] = {}
        for place in range(1, self._settings.ma_blocks + 1):
            of = {name: values.get(f"block_{place}/{name}", 0.0) for name in SHARES}
            if of["cosine_after"] >= max(ALIKE, of["cosine_before"] + RISE):
                found.setdefault("words", self._words(place, of))
            if of["empty_pixels"] >= MOST_EMPTY_PIXELS or of["empty_words"] >= MOST_EMPTY_WORDS:
                found.setdefault("gate", self._gate(place, of))
        new = [text for fault, text in found.items() if fault not in self._told]
        self._told |= found.keys()
        return new

    def _words(self, place: int, of: dict[str, float]) -> str:
        change = "model.ma_blocks to fewer"
        if self._settings.visual_center == "none":
            change = "model.visual_center to pixels"
        if self._settings.language_norm == "none":
            change = "model.language_norm to columns"
        return (
            f"MA block {place} makes the words of an expression alike: the mean cosine between two of them "
            f"is {of['cosine_before']:.2f} before it and {of['cosine_after']:.2f} after it, and what they "
            f"gather from the pixels is {of['gathered']:.3g} times as long as they are; set {change}"
        )

    def _gate(self, place: int, of: dict[str, float]) -> str:
        fill = "model.empty_rows to all, " if self._settings.empty_rows == "none" else ""
        lower = "higher" if self._settings.keep == "irrelevant" else "lower"
        return (
            f"the gate of eq. 4 closes in MA block {place}: {of['empty_pixels']:.0%} of the pixels keep no "
            f"word, {of['empty_words']:.0%} of the words no pixel; set {fill}model.tau {lower}, or "
            "model.keep to all"
        )
