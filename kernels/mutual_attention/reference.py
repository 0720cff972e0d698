"""Mutual-aware attention in plain PyTorch, one line per equation.

Shapes: I images, E expressions, L_v visual tokens, L_t words, C channels. Everything is computed in fp32
(fp64 for fp64 inputs) and rounded once, at the end, to the inputs' dtype.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

Keep = Literal["relevant", "irrelevant", "all"]


class Reading(NamedTuple):
    """How eqs. 3-5 are read, where what is printed may not be what is meant; the defaults are as printed."""

    language_norm: Literal["none", "columns"] = "none"
    """What a word gathers: Aᵀ Z_v, or with "columns" Aᵀ Z_v / c, where c_j = Σ_i A_ij sums A's columns over
    the pixels, a mean of pixels instead of a sum. An empty column, c_j = 0, gathers 0 in both."""
    empty_rows: Literal["none", "all"] = "none"
    """A pixel that keeps no word: its row of A is 0, or with "all" the softmax over all real words."""
    score_scale: Literal["none", "channels"] = "none"
    """S = Z_v Z_lᵀ, or with "channels" Z_v Z_lᵀ / √C, for the gate and the softmax."""


AS_PRINTED = Reading()


def logit(tau: float | Tensor) -> float | Tensor:
    """The relevance S at which sigmoid(S) = tau; -inf at tau = 0, where every pair is relevant."""
    if isinstance(tau, Tensor):
        return torch.log(tau / (1 - tau))
    return math.log(tau / (1 - tau)) if tau > 0 else -math.inf


def tokens_of_expressions(z_v: Tensor, expr_offsets: Tensor | None, expressions: int | None = None) -> Tensor:
    """The tokens of each expression's image: [I, L_v, C] -> [E, L_v, C].

    Without ``expressions``, E is read from the offsets, which waits for a GPU.
    """
    if expr_offsets is None:
        return z_v
    return z_v.repeat_interleave(expr_offsets.diff(), dim=0, output_size=expressions)


def relevance(z_v: Tensor, z_l: Tensor, reading: Reading = AS_PRINTED) -> Tensor:
    """S of eq. 3, Z_v Z_lᵀ or Z_v Z_lᵀ / √C; [E, L_v, C], [E, L_t, C] -> [E, L_v, L_t]."""
    S = z_v @ z_l.transpose(1, 2)
    return S / math.sqrt(z_v.shape[2]) if reading.score_scale == "channels" else S


def gate(
    S: Tensor, tau: float | Tensor, keep: Keep, word_mask: Tensor | None, reading: Reading = AS_PRINTED
) -> Tensor:
    """Which pairs eq. 4 keeps, bool [E, L_v, L_t]; sigmoid(S) against tau, compared before the sigmoid.

    With ``empty_rows="all"``, also all real words of the pixels that would keep none.
    """
    if keep == "relevant":
        kept = logit(tau) <= S
    elif keep == "irrelevant":
        kept = logit(tau) > S
    else:
        kept = torch.ones_like(S, dtype=torch.bool)
    real = torch.ones_like(kept) if word_mask is None else word_mask[:, None, :].expand_as(kept)
    kept = kept & real
    return kept | real & ~kept.any(dim=2, keepdim=True) if reading.empty_rows == "all" else kept


def attention_weights(S: Tensor, kept: Tensor) -> Tensor:
    """A of eq. 3: softmax over the kept words of each row; a row that keeps nothing is 0, not NaN."""
    keeps_any = kept.any(dim=2, keepdim=True)
    A = torch.softmax(S.masked_fill(~kept & keeps_any, -math.inf), dim=2)
    return A.masked_fill(~kept, 0)


def gathered(A: Tensor, z_v: Tensor, reading: Reading = AS_PRINTED) -> Tensor:
    """What eq. 5 adds to each word, [E, L_t, C]: Aᵀ Z_v, or each row divided by its column's sum in A."""
    U = A.transpose(1, 2) @ z_v
    if reading.language_norm == "none":
        return U
    c = A.sum(dim=1)[:, :, None]
    return U / c.masked_fill(c == 0, 1)


def mutual_attention_reference(
    z_v: Tensor,
    z_l: Tensor,
    ln_v_weight: Tensor,
    ln_v_bias: Tensor,
    ln_l_weight: Tensor,
    ln_l_bias: Tensor,
    *,
    tau: float | Tensor,
    keep: Keep,
    word_mask: Tensor | None,
    expr_offsets: Tensor | None,
    eps: float,
    reading: Reading = AS_PRINTED,
    kept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """f_lav [E, L_v, C] and f_val [E, L_t, C] of eq. 5, in the given ``reading``.

    ``kept`` (bool [E, L_v, L_t]) replaces the gate, so that a kernel can be compared with its own gate.
    """
    dtype = z_v.dtype
    wide = torch.promote_types(dtype, torch.float32)
    with torch.autocast(z_v.device.type, enabled=False):
        z_v, z_l = tokens_of_expressions(z_v.to(wide), expr_offsets, z_l.shape[0]), z_l.to(wide)
        S = relevance(z_v, z_l, reading)
        A = attention_weights(S, gate(S, tau, keep, word_mask, reading) if kept is None else kept)
        x = A @ z_l + z_v
        y = gathered(A, z_v, reading) + z_l
        f_lav = F.layer_norm(x, x.shape[-1:], ln_v_weight.to(wide), ln_v_bias.to(wide), eps)
        f_val = F.layer_norm(y, y.shape[-1:], ln_l_weight.to(wide), ln_l_bias.to(wide), eps)
    return f_lav.to(dtype), f_val.to(dtype)


def mutual_attention_weights_reference(
    z_v: Tensor,
    z_l: Tensor,
    *,
    tau: float | Tensor,
    keep: Keep,
    word_mask: Tensor | None,
    expr_offsets: Tensor | None,
    reading: Reading = AS_PRINTED,
) -> Tensor:
    """A of eq. 3, [E, L_v, L_t] in fp32 (fp64 for fp64 inputs)."""
    wide = torch.promote_types(z_v.dtype, torch.float32)
    with torch.autocast(z_v.device.type, enabled=False):
        S = relevance(tokens_of_expressions(z_v.to(wide), expr_offsets, z_l.shape[0]), z_l.to(wide), reading)
        return attention_weights(S, gate(S, tau, keep, word_mask, reading))
