"""The same sums in another order, in plain PyTorch: both projections are folded into the few keys."""

from __future__ import annotations

import torch
from torch import Tensor

from maris_fast.kernels.cross_attention.folding import fold


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
    """Σ_h softmax(x K_hᵀ + c_h) V_h + b_o, with K, c, V as ``fold`` makes them.

    fp32 inside (fp64 for fp64). Arguments and result as in ``cross_attention``.
    """
    K, c, V = fold(k, v, W_q, b_q, W_o, key_mask)
    with torch.autocast(x.device.type, enabled=False):
        # The queries stay innermost: they are many, and a softmax over few neighbours is slow.
        x = x.to(K.dtype).transpose(1, 2)
        S = torch.baddbmm(c.flatten(1)[:, :, None], K.flatten(1, 2), x)
        A = S.unflatten(1, c.shape[1:]).softmax(dim=2).flatten(1, 2)
        return torch.baddbmm(b_o.to(K.dtype), A.transpose(1, 2), V.flatten(1, 2)).to(k.dtype)
