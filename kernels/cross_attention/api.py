"""The operation's public API: checks the arguments, then calls the implementation."""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from typing import Literal, cast, get_args

import torch
from torch import Tensor

from maris_fast.kernels.choice.operation import text
from maris_fast.kernels.choice.table import Steps, choices, chosen, chosen_at
from maris_fast.kernels.compiled_constant import constant_when_compiled
from maris_fast.kernels.cross_attention.candidates import OPERATION, Kind
from maris_fast.kernels.cross_attention.folded import cross_attention_folded
from maris_fast.kernels.cross_attention.projected import cross_attention_projected
from maris_fast.kernels.errors import UnsupportedError
from maris_fast.kernels.multihead_attention.api import Impl as AttentionImpl

Impl = Literal["auto", "projected", "folded", "triton"]


def cross_attention(
    x: Tensor,
    k: Tensor,
    v: Tensor,
    W_q: Tensor,
    b_q: Tensor,
    W_o: Tensor,
    b_o: Tensor,
    key_mask: Tensor | None = None,
    *,
    impl: Impl = "auto",
    attention_impl: AttentionImpl = "auto",
) -> Tensor:
    """softmax((x W_qᵀ + b_q) kᵀ / √d) v W_oᵀ + b_o, with a softmax per head: MHCA of eq. 8.

    Args:
        x: queries before their projection [E, L_q, C].
        k, v: projected keys and values [E, L_k, heads, d], same dtype and device.
        W_q, b_q: projection of the queries [heads d, C], [heads d].
        W_o, b_o: projection of the result [C, heads d], [C].
        key_mask: bool [E, L_k], True for keys to attend to; each row needs at least one.
        impl: "projected" (as written), "folded" (projections are folded into the keys first), "triton"
            (folded, in one kernel), or "auto" (see ``chosen_impl``).
        attention_impl: ``impl`` of the ``multihead_attention`` in the middle of "projected".

    Returns:
        [E, L_q, C].

    Raises:
        ValueError: the shapes do not match.
        UnsupportedError: the named implementation, or ``attention_impl``, does not support these inputs here.
    """
    _check(x, k, v, W_q, b_q, W_o, b_o, key_mask)
    if impl not in get_args(Impl):
        raise ValueError(f"impl = {impl!r}; known are {', '.join(get_args(Impl))}")
    if impl == "auto":
        impl = _auto(x, k, key_mask, torch.is_grad_enabled() and (x.requires_grad or k.requires_grad))
    if impl == "triton":
        return _triton(x, k)(x, k, v, W_q, b_q, W_o, b_o, key_mask)
    if impl == "folded":
        return cross_attention_folded(x, k, v, W_q, b_q, W_o, b_o, key_mask)
    return cross_attention_projected(x, k, v, W_q, b_q, W_o, b_o, key_mask, attention_impl)


def chosen_impl(kind: Kind, device: torch.device, safe: Impl) -> Impl:
    """What ``impl="auto"`` takes for such calls on a device: what this machine's certificate names.

    That is the fastest that was right here; without a certificate ``safe``.
    """
    return cast(Impl, chosen(OPERATION, text(kind), device) or safe)


def _auto(x: Tensor, k: Tensor, key_mask: Tensor | None, gradient: bool) -> Impl:
    # A symbolic width becomes a number here; lengths are only compared.
    C, heads, d = index(x.shape[2]), index(k.shape[2]), index(k.shape[3])
    safe: Impl = "projected"
    # Folded computes in fp32, which is slower for 16-bit inputs.
    exact = k.device.type == "cpu" and k.dtype in (torch.float32, torch.float64)
    if exact and fewer_products(x.shape[1], k.shape[1], heads, d, C):
        safe = "folded"
    proven = _proven(k.device, k.dtype, heads, d, C, key_mask is not None, gradient, safe)
    return cast(Impl, chosen_at((x.shape[1], k.shape[1]), proven))


# torch.compile can't look into a certificate, and it doesn't change.
@constant_when_compiled
def _proven(
    device: torch.device,
    dtype: torch.dtype,
    heads: int,
    head_dim: int,
    C: int,
    masked: bool,
    gradient: bool,
    safe: Impl,
) -> Steps:
    kind = Kind(str(dtype).removeprefix("torch."), heads, head_dim, C, 0, 0, masked, gradient)
    return choices(OPERATION, kind, device, safe)


def _triton(x: Tensor, k: Tensor) -> Callable[..., Tensor]:
    """The Triton implementation, if it supports such inputs."""
    try:
        from maris_fast.kernels.cross_attention import operator
    except ImportError as error:
        reason: str | None = f"triton can't be imported ({error})"
    else:
        reason = operator.why_unsupported(k.device, k.dtype, k.shape[1], x.shape[2])
    if reason is not None:
        raise UnsupportedError(f"{reason}; use impl='folded', 'projected' or 'auto'")
    return operator.cross_attention_triton


def fewer_products(L_q: int, L_k: int, heads: int, d: int, C: int) -> bool:
    """Whether folding takes fewer multiply-adds, including the small products that fold."""
    inner = heads * d
    as_written = L_q * (2 * C * inner + 2 * inner * L_k)
    folded = L_q * 2 * C * heads * L_k + 2 * L_k * inner * C
    return folded < as_written


def _check(
    x: Tensor,
    k: Tensor,
    v: Tensor,
    W_q: Tensor,
    b_q: Tensor,
    W_o: Tensor,
    b_o: Tensor,
    key_mask: Tensor | None,
) -> None:
    if x.ndim != 3 or k.ndim != 4 or k.shape != v.shape or x.shape[0] != k.shape[0]:
        raise ValueError(
            f"x is {tuple(x.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}; "
            "expected [E, L_q, C] and twice [E, L_k, heads, d]"
        )
    C, inner = x.shape[2], k.shape[2] * k.shape[3]
    needed = {"W_q": (inner, C), "b_q": (inner,), "W_o": (C, inner), "b_o": (C,)}
    for (name, shape), parameter in zip(needed.items(), (W_q, b_q, W_o, b_o), strict=True):
        if parameter.shape != shape:
            raise ValueError(
                f"{name} is {tuple(parameter.shape)}; expected {shape}, as x is {C} wide and k has "
                f"{k.shape[2]} heads of {k.shape[3]}"
            )
    if key_mask is not None and (key_mask.shape != k.shape[:2] or key_mask.dtype != torch.bool):
        raise ValueError(
            f"key_mask is {key_mask.dtype} {tuple(key_mask.shape)}; expected bool {tuple(k.shape[:2])}"
        )
