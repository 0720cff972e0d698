"""The operation's public API: checks the arguments, then calls the implementation."""

from __future__ import annotations

from operator import index
from typing import Literal, cast

import torch
from torch import Tensor

from maris_fast.kernels.choice.operation import text
from maris_fast.kernels.choice.table import Steps, choices, chosen, chosen_at
from maris_fast.kernels.compiled_constant import constant_when_compiled
from maris_fast.kernels.errors import UnsupportedError
from maris_fast.kernels.multihead_attention.candidates import OPERATION, Kind, usual
from maris_fast.kernels.multihead_attention.implementations import IMPLEMENTATIONS, Named, why_unsupported

Impl = Literal["auto"] | Named


def multihead_attention(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, impl: Impl = "auto"
) -> Tensor:
    """softmax(Q Kᵀ / √d) V for each head.

    Args:
        q: queries [B, L_q, heads, d].
        k, v: keys and values [B, L_k, heads, d], same dtype and device.
        key_mask: bool [B, L_k], True for keys to attend to; each row needs at least one.
        impl: "xformers" (CUDA), "sdpa" (PyTorch picks its backend), "sdpa-flash", "sdpa-cudnn",
            "sdpa-efficient" (only that backend), "sdpa-flash3", "sdpa-flash4" (that FlashAttention, from a
            separate package), "reference", or "auto" (see ``chosen_impl``).

    Returns:
        [B, L_q, heads, d].

    Raises:
        ValueError: the shapes do not match.
        UnsupportedError: the named implementation does not support these inputs on this machine.
    """
    if q.ndim != 4 or k.shape != v.shape or q.shape[0] != k.shape[0] or q.shape[2:] != k.shape[2:]:
        raise ValueError(
            f"q is {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}; "
            "expected [B, L_q, heads, d] and twice [B, L_k, heads, d]"
        )
    if key_mask is not None and (key_mask.shape != k.shape[:2] or key_mask.dtype != torch.bool):
        raise ValueError(
            f"key_mask is {key_mask.dtype} {tuple(key_mask.shape)}; expected bool {tuple(k.shape[:2])}"
        )
    if impl not in ("auto", *IMPLEMENTATIONS):
        raise ValueError(f"impl = {impl!r}; known are auto, {', '.join(IMPLEMENTATIONS)}")
    # A symbolic width becomes a number here; lengths are only compared.
    heads, head_dim, masked = index(q.shape[2]), index(q.shape[3]), key_mask is not None
    if impl == "auto":
        gradient = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad or v.requires_grad)
        proven = _proven(q.device, q.dtype, heads, head_dim, masked, gradient)
        taken = cast(Named, chosen_at((q.shape[1], k.shape[1]), proven))
        return IMPLEMENTATIONS[taken](q, k, v, key_mask)
    reason = why_unsupported(impl, q.device, q.dtype, head_dim, masked)
    if reason is not None:
        raise UnsupportedError(reason)
    return IMPLEMENTATIONS[impl](q, k, v, key_mask)


def chosen_impl(kind: Kind, device: torch.device) -> Named:
    """What ``impl="auto"`` takes for such calls on a device: what this machine's certificate names.

    That is the fastest that was right here. Without a certificate, it is xformers on CUDA, and PyTorch's own
    elsewhere or where xformers can't run; never the reference, which stores the whole of softmax(Q Kᵀ).
    """
    return cast(Named, chosen(OPERATION, text(kind), device) or usual(kind, device))


# torch.compile can't look into a device's properties or a certificate, and they don't change.
@constant_when_compiled
def _proven(
    device: torch.device, dtype: torch.dtype, heads: int, head_dim: int, masked: bool, gradient: bool
) -> Steps:
    kind = Kind(str(dtype).removeprefix("torch."), heads, head_dim, 0, 0, masked, gradient)
    return choices(OPERATION, kind, device, usual(kind, device))
