"""xformers' memory-efficient attention; CUDA only."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from maris_fast.kernels.errors import UnsupportedError

# xformers reads a bias in blocks of 8 keys; a slice of a wider tensor satisfies it at any length.
BIAS_ALIGNMENT = 8


def why_unsupported(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why xformers can't take inputs of this device and dtype; None when it can."""
    if device.type != "cuda":
        return f"xformers has no attention for {device.type} tensors; use impl='sdpa' or 'reference'"
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        return f"xformers has no attention for {dtype}; needed is float16, bfloat16 or float32"
    try:
        import xformers.ops  # noqa: F401
    except ImportError as error:
        return f"xformers can't be imported ({error}); install it, or use impl='sdpa'"
    return None


def multihead_attention_xformers(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """Shapes as in the reference.

    Raises:
        UnsupportedError: not on CUDA, an unfit dtype, or no xformers.
    """
    reason = why_unsupported(q.device, q.dtype)
    if reason is not None:
        raise UnsupportedError(reason)
    from xformers.ops import memory_efficient_attention

    bias = None if key_mask is None else _bias(key_mask, q)
    return memory_efficient_attention(q.contiguous(), k.contiguous(), v.contiguous(), attn_bias=bias)


def _bias(key_mask: Tensor, q: Tensor) -> Tensor:
    batch, keys = key_mask.shape
    width = -(-keys // BIAS_ALIGNMENT) * BIAS_ALIGNMENT
    row = torch.zeros(batch, 1, 1, width, dtype=q.dtype, device=q.device)
    row[..., :keys].masked_fill_(~key_mask[:, None, None, :], -math.inf)
    return row[..., :keys].expand(batch, q.shape[2], q.shape[1], keys)
