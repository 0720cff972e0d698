"""The operation's public API: checks the arguments, then calls the implementation."""

from __future__ import annotations

from operator import index
from typing import Literal, cast

import torch
from torch import Tensor

from maris_fast.kernels.choice.table import Steps, choices, chosen_at
from maris_fast.kernels.compiled_constant import constant_when_compiled
from maris_fast.kernels.cross_attention.candidates import OPERATION, Kind
from maris_fast.kernels.cross_attention.implementations import IMPLEMENTATIONS, Named
from maris_fast.kernels.multihead_attention.api import Impl as AttentionImpl

Impl = Literal["auto"] | Named


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
            (folded, in one kernel), or "auto": what this machine's certificate names, the fastest that was
            right here; without one "projected", or on a CPU in fp32 and fp64 the one with fewer products.
        attention_impl: ``impl`` of the ``multihead_attention`` in the middle of "projected".

    Returns:
        [E, L_q, C].

    Raises:
        ValueError: the shapes do not match.
        UnsupportedError: the named implementation, or ``attention_impl``, does not support these inputs here.
    """
    _check(x, k, v, W_q, b_q, W_o, b_o, key_mask)
    if impl not in ("auto", *IMPLEMENTATIONS):
        raise ValueError(f"impl = {impl!r}; known are auto, {', '.join(IMPLEMENTATIONS)}")
    if impl == "auto":
        impl = _auto(x, k, key_mask, torch.is_grad_enabled() and (x.requires_grad or k.requires_grad))
    inner = {"attention_impl": attention_impl} if impl == "projected" else {}
    return IMPLEMENTATIONS[impl](x, k, v, W_q, b_q, W_o, b_o, key_mask, **inner)


def _auto(x: Tensor, k: Tensor, key_mask: Tensor | None, gradient: bool) -> Named:
    # A symbolic width becomes a number here; lengths are only compared.
    C, heads, d = index(x.shape[2]), index(k.shape[2]), index(k.shape[3])
    safe: Named = "projected"
    # Folded computes in fp32, which is slower for 16-bit inputs.
    exact = k.device.type == "cpu" and k.dtype in (torch.float32, torch.float64)
    if exact and fewer_products(x.shape[1], k.shape[1], heads, d, C):
        safe = "folded"
    proven = _proven(k.device, k.dtype, heads, d, C, key_mask is not None, gradient, safe)
    return cast(Named, chosen_at((x.shape[1], k.shape[1]), proven))


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
    safe: Named,
) -> Steps:
    kind = Kind(str(dtype).removeprefix("torch."), heads, head_dim, C, 0, 0, masked, gradient)
    return choices(OPERATION, kind, device, safe)


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
