"""The folded order as Triton kernels: queries are read once, scores stay in fp32 registers."""

from __future__ import annotations

import triton
import triton.language as tl

# No specialization for a size of 1 or a multiple of 16: what is compiled ahead of time is what runs.
SIZES = ("L_q", "L_k", "heads")


@triton.jit
def head_weights(
    x: tl.tensor,  # [BLOCK_Q, BLOCK_C]
    K: tl.tensor,  # [BLOCK_K, BLOCK_C]
    c_ptr: tl.tensor,  # [L_k], fp32, of one head
    keys: tl.tensor,
    L_k: tl.tensor,
) -> tl.tensor:
    """softmax(x Kᵀ + c) over the keys of one head, fp32."""
    c = tl.load(c_ptr + keys, mask=keys < L_k, other=float("-inf"))
    S = tl.dot(x, tl.trans(K), input_precision="ieee") + c[None, :]
    P = tl.exp(S - tl.max(S, axis=1)[:, None])
    return P / tl.sum(P, axis=1)[:, None]


@triton.jit(do_not_specialize=SIZES)
def cross_attention_fwd_kernel(
    x_ptr: tl.tensor,  # [E, L_q, C]
    K_ptr: tl.tensor,  # [E, heads, L_k, C]
    c_ptr: tl.tensor,  # [E, heads, L_k], fp32
    V_ptr: tl.tensor,  # [E, heads, L_k, C]
    bias_ptr: tl.tensor,  # [C]
    out_ptr: tl.tensor,  # [E, L_q, C]
    L_q: tl.tensor,
    L_k: tl.tensor,
    heads: tl.tensor,
    C: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """Grid (E, ceil(L_q / BLOCK_Q)): a tile's result accumulates over the heads in order."""
    e = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1).to(tl.int64) * BLOCK_Q
    rows = tl.arange(0, BLOCK_Q)
    keys = tl.arange(0, BLOCK_K)
    channels = tl.arange(0, BLOCK_C)
    is_channel = channels < C
    is_place = (first + rows < L_q)[:, None] & is_channel[None, :]
    is_key = (keys < L_k)[:, None] & is_channel[None, :]
    places = rows[:, None] * C + channels[None, :]
    key_places = keys[:, None] * C + channels[None, :]
    x = tl.load(x_ptr + (e * L_q + first) * C + places, mask=is_place, other=0.0)

    bias = tl.load(bias_ptr + channels, mask=is_channel, other=0.0).to(tl.float32)
    out = tl.zeros((BLOCK_Q, BLOCK_C), dtype=tl.float32) + bias[None, :]
    for head in tl.range(0, heads, num_stages=1, disable_licm=True):
        of_head = (e * heads + head) * L_k
        K = tl.load(K_ptr + of_head * C + key_places, mask=is_key, other=0.0)
        V = tl.load(V_ptr + of_head * C + key_places, mask=is_key, other=0.0)
        A = head_weights(x, K, c_ptr + of_head, keys, L_k)
        out = tl.dot(A.to(V.dtype), V, out, input_precision="ieee")
    tl.store(out_ptr + (e * L_q + first) * C + places, out.to(out_ptr.dtype.element_ty), mask=is_place)


@triton.jit(do_not_specialize=SIZES)
def cross_attention_bwd_kernel(
    x_ptr: tl.tensor,  # [E, L_q, C]
    K_ptr: tl.tensor,  # [E, heads, L_k, C]
    c_ptr: tl.tensor,  # [E, heads, L_k], fp32
    V_ptr: tl.tensor,  # [E, heads, L_k, C]
    grad_ptr: tl.tensor,  # [E, L_q, C], dL/dout
    dx_ptr: tl.tensor,  # [E, L_q, C]
    A_ptr: tl.tensor,  # [E, heads, L_k, L_q]
    dS_ptr: tl.tensor,  # [E, heads, L_k, L_q]
    L_q: tl.tensor,
    L_k: tl.tensor,
    heads: tl.tensor,
    C: tl.constexpr,
    BLOCK_Q: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """Grid (E, ceil(L_q / BLOCK_Q)): dx of a tile; A and dS, from which products give the keys' gradients."""
    e = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1).to(tl.int64) * BLOCK_Q
    rows = tl.arange(0, BLOCK_Q)
    keys = tl.arange(0, BLOCK_K)
    channels = tl.arange(0, BLOCK_C)
    is_row = first + rows < L_q
    is_channel = channels < C
    is_place = is_row[:, None] & is_channel[None, :]
    is_key = (keys < L_k)[:, None] & is_channel[None, :]
    is_pair = is_row[:, None] & (keys < L_k)[None, :]
    places = rows[:, None] * C + channels[None, :]
    key_places = keys[:, None] * C + channels[None, :]
    x = tl.load(x_ptr + (e * L_q + first) * C + places, mask=is_place, other=0.0)
    grad = tl.load(grad_ptr + (e * L_q + first) * C + places, mask=is_place, other=0.0)

    dx = tl.zeros((BLOCK_Q, BLOCK_C), dtype=tl.float32)
    for head in tl.range(0, heads, num_stages=1, disable_licm=True):
        of_head = (e * heads + head) * L_k
        V = tl.load(V_ptr + of_head * C + key_places, mask=is_key, other=0.0)
        dA = tl.dot(grad, tl.trans(V), input_precision="ieee")
        K = tl.load(K_ptr + of_head * C + key_places, mask=is_key, other=0.0)
        A = head_weights(x, K, c_ptr + of_head, keys, L_k)
        dS = A * (dA - tl.sum(A * dA, axis=1)[:, None])
        dS = dS.to(K.dtype)
        dx = tl.dot(dS, K, dx, input_precision="ieee")
        pairs = (of_head + keys)[None, :] * L_q + (first + rows)[:, None]
        tl.store(A_ptr + pairs, A.to(K.dtype), mask=is_pair)
        tl.store(dS_ptr + pairs, dS, mask=is_pair)
    tl.store(dx_ptr + (e * L_q + first) * C + places, dx.to(dx_ptr.dtype.element_ty), mask=is_place)
