"""SAM's attention with decomposed relative positions, without materialising the attention matrix.

Between query (i, j) and key (y, x) of a grid of H rows and W columns the logit is

    S = scale * q.k + q.R_h[i - y] + q.R_w[j - x]

The last two terms depend on the key only through its row and its column. So S is one dot product of
longer vectors,

    q' = [scale * q, (q.R_h[i - y]) for all y, (q.R_w[j - x]) for all x]
    k' = [k, onehot(y), onehot(x)]

and ``scaled_dot_product_attention(q', k', v)`` needs no bias of H W x H W numbers per image and head.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from segment_anything.modeling.image_encoder import Attention, get_rel_pos
from torch import Tensor, nn

_ALIGNMENT = 8
"""GPU kernels prefer head dimensions that are a multiple of this."""


class DecomposedAttention(nn.Module):
    """Replaces segment-anything's ``Attention`` in an image encoder's block, and takes over its parameters.

    Args:
        attention: the replaced module, with relative positions; names in a state dict stay the same.
    """

    def __init__(self, attention: Attention) -> None:
        super().__init__()
        self.num_heads: int = attention.num_heads
        self.scale: float = attention.scale
        self.qkv: nn.Linear = attention.qkv
        self.proj: nn.Linear = attention.proj
        self.rel_pos_h: nn.Parameter = attention.rel_pos_h
        self.rel_pos_w: nn.Parameter = attention.rel_pos_w

    def forward(self, x: Tensor) -> Tensor:
        """[B, H, W, C_v] -> [B, H, W, C_v]."""
        B, H, W, _ = x.shape
        qkv = self.qkv(x).reshape(B, H * W, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)  # [B, heads, H W, head_dim]
        R_h = get_rel_pos(H, H, self.rel_pos_h)  # [H, H, head_dim]
        R_w = get_rel_pos(W, W, self.rel_pos_w)
        out = relative_attention(q, k, v, R_h, R_w, self.scale)
        return self.proj(out.transpose(1, 2).reshape(B, H, W, -1))


def relative_attention(q: Tensor, k: Tensor, v: Tensor, R_h: Tensor, R_w: Tensor, scale: float) -> Tensor:
    """softmax(scale q.k + q.R_h + q.R_w) v over a grid.

    Args:
        q, k, v: [B, heads, H W, d].
        R_h, R_w: [H, H, d] by rows of query and key, [W, W, d] by columns.

    Returns:
        [B, heads, H W, d].
    """
    B, heads, length, d = q.shape
    H, W = len(R_h), len(R_w)
    grid = q.view(B, heads, H, W, d)
    by_row = torch.einsum("bnhwd,hyd->bnhwy", grid, R_h.to(q.dtype)).reshape(B, heads, length, H)
    by_column = torch.einsum("bnhwd,wxd->bnhwx", grid, R_w.to(q.dtype)).reshape(B, heads, length, W)
    rows, columns = _one_hot(H, W, q)
    padding = -(d + H + W) % _ALIGNMENT
    wide_q = torch.cat([q * scale, by_row, by_column, q.new_zeros(B, heads, length, padding)], -1)
    keys = torch.cat([rows, columns, q.new_zeros(length, padding)], -1)
    wide_k = torch.cat([k, keys.expand(B, heads, -1, -1)], -1)
    if q.device.type == "cpu":
        # PyTorch's fused CPU kernel needs the same head dimension for q, k and v.
        wide_v = F.pad(v, (0, wide_k.shape[-1] - d))
        return F.scaled_dot_product_attention(wide_q, wide_k, wide_v, scale=1.0)[..., :d]
    return F.scaled_dot_product_attention(wide_q, wide_k, v, scale=1.0)


def _one_hot(H: int, W: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Row and column of each token of the grid, [H W, H] and [H W, W]."""
    rows = torch.eye(H, dtype=like.dtype, device=like.device).repeat_interleave(W, 0)
    columns = torch.eye(W, dtype=like.dtype, device=like.device).repeat(H, 1)
    return rows, columns
