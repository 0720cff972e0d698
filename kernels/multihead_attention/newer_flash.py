"""FlashAttention 3 and 4, if a package provides them and PyTorch can activate them instead of its own."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.attention as attention
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from maris_fast.kernels.errors import UnsupportedError
from maris_fast.kernels.operators import operator, with_gradient

# Their names in PyTorch's registry.
VERSIONS = {"sdpa-flash3": "FA3", "sdpa-flash4": "FA4"}


@lru_cache
def why_unsupported(
    impl: str, device: torch.device, dtype: torch.dtype, head_dim: int, masked: bool
) -> str | None:
    """Why a small call with such inputs is rejected, in the library's words; None when it is accepted."""
    if masked:
        return f"{impl} takes no mask; use impl='sdpa'"
    if not hasattr(attention, "activate_flash_attention_impl"):
        return f"PyTorch {torch.__version__} can't put {VERSIONS[impl]} in place of its own; use impl='sdpa'"
    with unset_fake_temporarily(), torch.enable_grad(), torch.inference_mode(False):
        try:
            q = torch.zeros(2, 16, 1, head_dim, device=device, dtype=dtype, requires_grad=True)
            newer_flash(impl, q, q, q).sum().backward()
        except torch.OutOfMemoryError:
            raise
        # The packages compile when imported or first called, and fail in many ways.
        except Exception as error:
            said = f"{type(error).__name__}: {error}".splitlines()[0]
            return f"{impl} refuses {dtype} on {device}, head dim {head_dim}: {said}; use impl='sdpa'"
    return None


def newer_flash(impl: str, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Shapes as in the reference. ``impl``: a key of VERSIONS."""
    out, _ = newer_flash_fwd(q, k, v, VERSIONS[impl])
    return out


def multihead_attention_flash3(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """FlashAttention 3, for Hopper; takes no mask. Shapes as in the reference."""
    return _without_mask("sdpa-flash3", q, k, v, key_mask)


def multihead_attention_flash4(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    """FlashAttention 4, for Hopper and Blackwell; takes no mask. Shapes as in the reference."""
    return _without_mask("sdpa-flash4", q, k, v, key_mask)


def _without_mask(impl: str, q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
    if key_mask is not None:
        raise UnsupportedError(f"{impl} takes no mask; use impl='sdpa'")
    return newer_flash(impl, q, k, v)


@contextmanager
def _in_place(version: str) -> Iterator[None]:
    """Activate a version, then restore the previous one: PyTorch has one FlashAttention per process."""
    before = attention.current_flash_attention_impl()
    if before != version:
        attention.activate_flash_attention_impl(version)
    try:
        yield
    finally:
        if before is None:
            attention.restore_flash_attention_impl()
        elif before != version:
            attention.activate_flash_attention_impl(before)


def _empty_outputs(q: Tensor, k: Tensor, v: Tensor, version: str) -> tuple[Tensor, Tensor]:
    B, L_q, heads, _d = q.shape
    return q.new_empty(q.shape), q.new_empty((B, heads, L_q), dtype=torch.float32)


# Separate operators, so that the backward, which autograd runs later, activates the same version.
@operator(_empty_outputs)
def newer_flash_fwd(q: Tensor, k: Tensor, v: Tensor, version: str) -> tuple[Tensor, Tensor]:
    """Output [B, L_q, heads, d] and log-sum-exp [B, heads, L_q]."""
    with _in_place(version):
        out, lse, *_ = torch.ops.aten._scaled_dot_product_flash_attention(*_heads_first(q, k, v))
    return out.transpose(1, 2).contiguous(), lse


@operator(lambda grad, q, k, v, *_: (q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)))
def newer_flash_bwd(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, version: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of q, k and v."""
    # Without dropout no random state is read.
    seed, offset = (torch.empty(0, dtype=torch.int64, device=q.device) for _ in range(2))
    lengths, dropout, causal = (q.shape[1], k.shape[1]), 0.0, False
    with _in_place(version):
        grads = torch.ops.aten._scaled_dot_product_flash_attention_backward(
            *_heads_first(grad, q, k, v, out), lse, None, None, *lengths, dropout, causal, seed, offset
        )
    dq, dk, dv = (each.transpose(1, 2).contiguous() for each in grads)
    return dq, dk, dv


def _heads_first(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(tensor.contiguous().transpose(1, 2) for tensor in tensors)


def _save(ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor, Tensor]) -> None:
    *inputs, ctx.version = arguments
    ctx.save_for_backward(*inputs, *outputs)
    ctx.mark_non_differentiable(outputs[1])


def _gradients(ctx: Any, grad: Tensor, _: Tensor | None) -> tuple[Any, ...]:
    return (*newer_flash_bwd(grad, *ctx.saved_tensors, ctx.version), None)


with_gradient(newer_flash_fwd, _save, _gradients)
