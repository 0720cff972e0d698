"""PyTorch's scaled_dot_product_attention, which picks its own backend."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def multihead_attention_sdpa(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """Shapes as in the reference."""
    mask = None if key_mask is None else key_mask[:, None, None, :]
    out = F.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask
    )
    return out.transpose(1, 2)
