"""The equation as written: project the queries, attend, project the result."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from maris_fast.kernels.multihead_attention import multihead_attention
from maris_fast.kernels.multihead_attention.api import Impl as AttentionImpl


def cross_attention_projected(
    x: Tensor,
    k: Tensor,
    v: Tensor,
    W_q: Tensor,
    b_q: Tensor,
    W_o: Tensor,
    b_o: Tensor,
    key_mask: Tensor | None,
    attention_impl: AttentionImpl = "auto",
) -> Tensor:
    """Arguments, result and errors as in ``cross_attention``."""
    q = F.linear(x, W_q, b_q).unflatten(2, k.shape[2:])
    return F.linear(multihead_attention(q, k, v, key_mask, attention_impl).flatten(2), W_o, b_o)
