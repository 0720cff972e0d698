"""The operation's public face: checks what came in, then hands on to the implementation."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from maris_fast.kernels.multihead_attention.memory_efficient import (
    multihead_attention_xformers,
    why_unsupported,
)
from maris_fast.kernels.multihead_attention.reference import multihead_attention_reference
from maris_fast.kernels.multihead_attention.sdpa import multihead_attention_sdpa

Impl = Literal["auto", "xformers", "sdpa", "reference"]

IMPLEMENTATIONS = {
    "xformers": multihead_attention_xformers,
    "sdpa": multihead_attention_sdpa,
    "reference": multihead_attention_reference,
}


def multihead_attention(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, impl: Impl = "auto"
) -> Tensor:
    """softmax(Q Kᵀ / √d) V for each head.

    Args:
        q: queries [B, L_q, heads, d].
        k, v: keys and values [B, L_k, heads, d].
        key_mask: bool [B, L_k], True for a key that counts; each row needs at least one.
        impl: "xformers" (CUDA), "sdpa", "reference", or "auto" (see ``chosen_impl``).

    Returns:
        [B, L_q, heads, d].

    Raises:
        ValueError: shapes that do not fit together.
        UnsupportedError: the named implementation can't compute this here.
    """
    if q.ndim != 4 or k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[2:] != k.shape[2:]:
        raise ValueError(
            f"q is {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}; "
            "needed are [B, L_q, heads, d] and twice [B, L_k, heads, d]"
        )
    if key_mask is not None and (key_mask.shape != k.shape[:2] or key_mask.dtype != torch.bool):
        raise ValueError(
            f"key_mask is {key_mask.dtype} {tuple(key_mask.shape)}; needed is bool {tuple(k.shape[:2])}"
        )
    if impl not in get_args(Impl):
        raise ValueError(f"impl = {impl!r}; known are {', '.join(get_args(Impl))}")
    chosen = chosen_impl(q.device, q.dtype) if impl == "auto" else impl
    return IMPLEMENTATIONS[chosen](q, k, v, key_mask)


def chosen_impl(device: torch.device, dtype: torch.dtype) -> Impl:
    """What ``impl="auto"`` takes: xformers wherever it runs, PyTorch's own elsewhere."""
    return "xformers" if why_unsupported(device, dtype) is None else "sdpa"
