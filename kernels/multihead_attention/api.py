"""The operation's public face: checks what came in, then hands on to the implementation."""

from __future__ import annotations

from operator import index
from typing import Literal

import torch
from torch import Tensor

from maris_fast.kernels.errors import UnsupportedError
from maris_fast.kernels.multihead_attention import measured
from maris_fast.kernels.multihead_attention.implementations import IMPLEMENTATIONS, Named, why_unsupported

Impl = Literal["auto"] | Named

# A figure this close to the fastest is a tie, and a tie goes to the usual implementation.
TIE = 1.05


def multihead_attention(
    q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None = None, impl: Impl = "auto"
) -> Tensor:
    """softmax(Q Kᵀ / √d) V for each head.

    Args:
        q: queries [B, L_q, heads, d].
        k, v: keys and values [B, L_k, heads, d], same dtype and device.
        key_mask: bool [B, L_k], True for a key that counts; each row needs at least one.
        impl: "xformers" (CUDA), "sdpa" (PyTorch picks its backend), "sdpa-flash", "sdpa-cudnn",
            "sdpa-efficient" (that backend or none), "reference", or "auto" (see ``chosen_impl``).

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
    if impl not in ("auto", *IMPLEMENTATIONS):
        raise ValueError(f"impl = {impl!r}; known are auto, {', '.join(IMPLEMENTATIONS)}")
    # A symbolic size becomes a number here: an implementation is chosen for one head dim.
    kind = (q.device, q.dtype, index(q.shape[3]), key_mask is not None)
    if impl == "auto":
        return IMPLEMENTATIONS[chosen_impl(*kind)](q, k, v, key_mask)
    reason = why_unsupported(impl, *kind)
    if reason is not None:
        raise UnsupportedError(reason)
    return IMPLEMENTATIONS[impl](q, k, v, key_mask)


# torch.compile can't look into a device's properties or a file, and they don't change.
@torch.compiler.assume_constant_result
def chosen_impl(device: torch.device, dtype: torch.dtype, head_dim: int, masked: bool) -> Named:
    """What ``impl="auto"`` takes: the fastest measured on this device; unmeasured, the usual one.

    Usual is xformers on CUDA and PyTorch's own elsewhere, or where xformers can't run. The reference is
    never taken: it holds the whole of softmax(Q Kᵀ).

    Raises:
        ValueError: what was measured on this device can't be read.
    """
    usual: Named = "xformers" if device.type == "cuda" else "sdpa"
    times = measured.times(device, dtype, head_dim, masked)
    times.pop("reference", None)
    ranking = sorted(times, key=lambda impl: times[impl])
    if usual in times and times[usual] <= TIE * min(times.values()):
        ranking.insert(0, usual)
    for impl in (*ranking, usual):
        if why_unsupported(impl, device, dtype, head_dim, masked) is None:
            return impl
    return "sdpa"
