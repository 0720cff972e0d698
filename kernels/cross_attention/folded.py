"""The same sums in another order, in plain PyTorch: both projections are folded into the few keys."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Folded(NamedTuple):
    """K and V [E, heads, L_k, C] in place of keys and values; c [E, heads, L_k], −∞ where a key is masked."""

    K: Tensor
    c: Tensor
    V: Tensor


def fold(k: Tensor, v: Tensor, W_q: Tensor, b_q: Tensor, W_o: Tensor, key_mask: Tensor | None) -> Folded:
    """K_h = k_h W_qh / √d, c_h = k_h b_qh / √d, V_h = v_h W_ohᵀ, in fp32 (fp64 for fp64).

    Arguments as in ``cross_attention``.
    """
    heads, d = k.shape[2:]
    wide = torch.promote_types(k.dtype, torch.float32)
    with torch.autocast(k.device.type, enabled=False):
        k, v, W_q, b_q, W_o = (t.to(wide) for t in (k, v, W_q, b_q, W_o))
        k = k / math.sqrt(d)
        K = torch.einsum("ekhd,hdc->ehkc", k, W_q.unflatten(0, (heads, d)))
        c = (k * b_q.unflatten(0, (heads, d))).sum(3).transpose(1, 2)
        V = torch.einsum("ekhd,chd->ehkc", v, W_o.unflatten(1, (heads, d)))
    if key_mask is not None:
        c = c.masked_fill(~key_mask[:, None, :], -math.inf)
    return Folded(K, c, V)


def cross_attention_folded(
    x: Tensor,
    k: Tensor,
    v: Tensor,
    W_q: Tensor,
    b_q: Tensor,
    W_o: Tensor,
    b_o: Tensor,
    key_mask: Tensor | None,
) -> Tensor:
    """Σ_h softmax(x K_hᵀ + c_h) V_h + b_o, with K, c, V from ``fold``.

    fp32 inside (fp64 for fp64). Arguments and result as in ``cross_attention``.
    """
    K, c, V = fold(k, v, W_q, b_q, W_o, key_mask)
    with torch.autocast(x.device.type, enabled=False):
        # The queries stay innermost, as they are many: a softmax over a short innermost dimension is slow.
        x = x.to(K.dtype).transpose(1, 2)
        S = torch.baddbmm(c.flatten(1)[:, :, None], K.flatten(1, 2), x)
        A = S.unflatten(1, c.shape[1:]).softmax(dim=2).flatten(1, 2)
        return torch.baddbmm(b_o.to(K.dtype), A.transpose(1, 2), V.flatten(1, 2)).to(k.dtype)
