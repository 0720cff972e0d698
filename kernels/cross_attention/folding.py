"""The small products: projections of queries and result, folded into keys and values."""

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
