"""The Triton kernels as one PyTorch operator, with shapes for tracing and a gradient."""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from maris_fast.kernels.cross_attention.folded import fold
from maris_fast.kernels.cross_attention.fused import cross_attention_bwd_kernel, cross_attention_fwd_kernel
from maris_fast.kernels.cross_attention.tiles import STAGES, WARPS, Tile, key_block, tile, why_unfit
from maris_fast.kernels.operators import operator, with_gradient
from maris_fast.kernels.triton_here import FP_FUSION, architecture, why_not_here

# A kernel is fixed as interpreted or compiled when its module is imported.
INTERPRETED = not isinstance(cross_attention_fwd_kernel, triton.JITFunction)


def why_unsupported(device: torch.device, dtype: torch.dtype, L_k: int, C: int) -> str | None:
    """Why the kernels can't take inputs of this device, dtype and size; None when they can."""
    reason = why_not_here(device, dtype, INTERPRETED) or why_unfit(L_k, C)
    if reason is None and not INTERPRETED and dtype == torch.float32:
        return "the inputs are torch.float32, and on a GPU the Triton kernels take float16 and bfloat16"
    return reason


def cross_attention_triton(
    x: Tensor,
    k: Tensor,
    v: Tensor,
    W_q: Tensor,
    b_q: Tensor,
    W_o: Tensor,
    b_o: Tensor,
    key_mask: Tensor | None,
) -> Tensor:
    """Arguments and result as in ``cross_attention``; casts x to the dtype of k if autocast left it wider."""
    K, c, V = fold(k, v, W_q, b_q, W_o, key_mask)
    return cross_attention_fwd(x.to(k.dtype), K.to(k.dtype), c, V.to(k.dtype), b_o)


@operator(lambda x, *_: x.new_empty(x.shape))
def cross_attention_fwd(x: Tensor, K: Tensor, c: Tensor, V: Tensor, b_o: Tensor) -> Tensor:
    """Σ_h softmax(x K_hᵀ + c_h) V_h + b_o: x [E, L_q, C], K and V [E, heads, L_k, C], c in fp32."""
    out = x.new_empty(x.shape)
    _launch(cross_attention_fwd_kernel, _tile(x, K).forward, x, K, c, V, b_o, out)
    return out


def _empty_gradients(grad: Tensor, x: Tensor, K: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    E, heads, L_k, _C = K.shape
    pairs = (E, heads, L_k, x.shape[1])
    return x.new_empty(x.shape), x.new_empty(pairs), x.new_empty(pairs)


@operator(_empty_gradients)
def cross_attention_bwd(
    grad: Tensor, x: Tensor, K: Tensor, c: Tensor, V: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """dx [E, L_q, C], A and dS [E, heads, L_k, L_q] in the dtype of x."""
    outputs = _empty_gradients(grad, x, K)
    _launch(cross_attention_bwd_kernel, _tile(x, K).backward, x, K, c, V, grad, *outputs)
    return outputs


def _tile(x: Tensor, K: Tensor) -> Tile:
    return tile(architecture(x.device), x.element_size(), K.shape[2])


def _launch(kernel: Any, queries: int, x: Tensor, K: Tensor, *others: Tensor) -> None:
    """Launch a program per expression and ``queries`` of x; tensors in the kernel's order, outputs last."""
    E, heads, L_k, C = K.shape
    L_q = x.shape[1]
    if 0 in (E, L_q):
        return
    # Triton launches on the current device, whatever device the tensors are on.
    with torch.cuda.device_of(x):
        kernel[(E, triton.cdiv(L_q, queries))](
            *(tensor.contiguous() for tensor in (x, K, *others)),
            L_q,
            L_k,
            heads,
            C=C,
            BLOCK_Q=queries,
            BLOCK_K=key_block(L_k),
            BLOCK_C=triton.next_power_of_2(C),
            num_warps=WARPS,
            num_stages=STAGES,
            enable_fp_fusion=FP_FUSION,
        )


def _save(ctx: Any, arguments: tuple[Tensor, ...], output: Tensor) -> None:
    x, K, c, V, b_o = arguments
    ctx.save_for_backward(x, K, c, V)
    ctx.bias_dtype = b_o.dtype


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
    """The kernel computes the queries' gradient; the keys' are sums over queries: plain products."""
    x, K, c, V = ctx.saved_tensors
    dx, A, dS = cross_attention_bwd(grad, x, K, c, V)
    dK = (dS.flatten(1, 2) @ x).view_as(K)
    dV = (A.flatten(1, 2) @ grad).view_as(V)
    return dx, dK, dS.sum(3, dtype=c.dtype), dV, grad.sum((0, 1), dtype=c.dtype).to(ctx.bias_dtype)


with_gradient(cross_attention_fwd, _save, _gradients)
