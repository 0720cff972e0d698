"""softmax(Q Kᵀ / √d) V for each head, in plain PyTorch."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def multihead_attention_reference(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """[B, L_q, heads, d], [B, L_k, heads, d] twice -> [B, L_q, heads, d]; fp32 inside (fp64 for fp64)."""
    wide = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        S = torch.einsum("bqhd,bkhd->bhqk", q.to(wide), k.to(wide)) / math.sqrt(q.shape[3])
        if key_mask is not None:
            S = S.masked_fill(~key_mask[:, None, None, :], -math.inf)
        return torch.einsum("bhqk,bkhd->bqhd", S.softmax(dim=3), v.to(wide)).to(q.dtype)
