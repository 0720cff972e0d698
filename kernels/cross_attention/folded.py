"""The same sums in another order: both projections are folded into the keys and values, which are few."""

from __future__ import annotations

import math

import torch
from torch import Tensor


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
    """Σ_h softmax(x K_hᵀ + c_h) V_h + b_o with K_h = k_h W_qh / √d, c_h = k_h b_qh / √d, V_h = v_h W_ohᵀ.

    fp32 inside (fp64 for fp64). Arguments and result as in ``cross_attention``.
    """
    heads, d = k.shape[2:]
    dtype = k.dtype
    wide = torch.promote_types(dtype, torch.float32)
    with torch.autocast(x.device.type, enabled=False):
        x, k, v, W_q, b_q, W_o, b_o = (t.to(wide) for t in (x, k, v, W_q, b_q, W_o, b_o))
        k = k / math.sqrt(d)
        K = torch.einsum("ekhd,hdc->ehkc", k, W_q.unflatten(0, (heads, d)))
        c = (k * b_q.unflatten(0, (heads, d))).sum(3).transpose(1, 2)
        V = torch.einsum("ekhd,chd->ehkc", v, W_o.unflatten(1, (heads, d)))
        if key_mask is not None:
            c = c.masked_fill(~key_mask[:, None, :], -math.inf)
        # The queries stay innermost: they are many, and a softmax over few neighbours is slow.
        S = torch.baddbmm(c.flatten(1)[:, :, None], K.flatten(1, 2), x.transpose(1, 2))
        A = S.unflatten(1, (heads, -1)).softmax(dim=2).flatten(1, 2)
        return torch.baddbmm(b_o, A.transpose(1, 2), V.flatten(1, 2)).to(dtype)
