"""The forward for Hopper: tiles of 128 rows by TMA, and all three products as wgmma."""

from __future__ import annotations

import triton
import triton.language as tl

from maris_fast.kernels.mutual_attention.forward import (
    SIZES,
    gate,
    image_of_expression,
    inside,
    store_column_sums,
    store_gate,
)

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def softmax_of_kept(S: tl.tensor, kept: tl.tensor, is_row: tl.tensor | None = None) -> tl.tensor:
    """As in forward.py, but without the exponential's slow path and a division per pair."""
    S = tl.where(kept, S, float("-inf"))
    highest = tl.max(S, axis=1)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    P = tl.exp2((S - highest[:, None]) * LOG2_E)
    total = tl.sum(P, axis=1)
    if is_row is not None:
        total = tl.where(is_row, total, float("inf"))
    return P * (1.0 / tl.where(total > 0, total, 1.0))[:, None]


@triton.jit
def packed(may_keep: tl.tensor, slot: tl.constexpr) -> tl.tensor:
    """The 32 words of a slot as an int32's bits."""
    words = tl.arange(0, may_keep.shape[0])
    here = may_keep & (words // 32 == slot)
    return tl.sum(here.to(tl.int32) << (words % 32), axis=0)


@triton.jit
def halves(X: tl.tensor, ROWS: tl.constexpr, HALF: tl.constexpr) -> tuple[tl.tensor, tl.tensor]:
    """X [ROWS, 2 HALF] split into two of [ROWS, HALF]."""
    return tl.split(tl.permute(tl.reshape(X, (ROWS, 2, HALF)), (0, 2, 1)))


@triton.jit
def store_quarter(
    f_lav_desc: tl.tensor,
    e: tl.tensor,
    start: tl.tensor,
    x_hat: tl.tensor,  # [BLOCK_V, QUARTER]
    weight_ptr: tl.tensor,
    bias_ptr: tl.tensor,
    quarter: tl.constexpr,
    C: tl.constexpr,
    BLOCK_V: tl.constexpr,
    QUARTER: tl.constexpr,
) -> None:
    """f_lav = x̂ w + b for a quarter of the channels: w and b of all would overflow the registers."""
    channels = quarter * QUARTER + tl.arange(0, QUARTER)
    weight = tl.load(weight_ptr + channels, mask=channels < C, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channels, mask=channels < C, other=0.0).to(tl.float32)
    f_lav = (x_hat * weight[None, :] + bias[None, :]).to(f_lav_desc.dtype)
    f_lav_desc.store([e, start, quarter * QUARTER], tl.reshape(f_lav, (1, BLOCK_V, QUARTER)))


@triton.jit(do_not_specialize=SIZES)
def mutual_attention_fwd_hopper_kernel(
    z_v_desc: tl.tensor,  # [I, L_v, C], in blocks [1, BLOCK_V, BLOCK_C]
    z_l_ptr: tl.tensor,  # [E, L_t, C]
    weight_ptr: tl.tensor,  # [C]
    bias_ptr: tl.tensor,  # [C]
    word_mask_ptr: tl.tensor,  # [E, L_t], uint8
    expr_offsets_ptr: tl.tensor,  # [I + 1]
    f_lav_desc: tl.tensor,  # [E, L_v, C], in blocks [1, BLOCK_V, BLOCK_C // 4]
    mean_ptr: tl.tensor,  # [E, L_v]
    rstd_ptr: tl.tensor,  # [E, L_v]
    gate_ptr: tl.tensor,  # [E, L_v, GATE_WORDS], 32 pairs an int32
    partial_ptr: tl.tensor,  # [E, splits, L_t, C], this split's share of Aᵀ Z_v
    column_partial_ptr: tl.tensor,  # [E, tiles, L_t], with COLUMNS: sums of A's columns
    images: tl.tensor,
    L_v: tl.tensor,
    L_t: tl.tensor,
    tiles_per_split: tl.tensor,
    threshold: tl.tensor,
    eps: tl.tensor,
    C: tl.constexpr,
    GATE_WORDS: tl.constexpr,
    KEEP: tl.constexpr,
    COLUMNS: tl.constexpr,
    FILL: tl.constexpr,
    SCALE: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HAS_GROUPS: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """As mutual_attention_fwd_kernel, tiled so that each product's rows fill a warp group.

    Aᵀ Z_v is accumulated transposed, [C, words]: its rows are then channels, of which there are enough. The
    accumulator of X starts from Z_v, so that the residual costs no addition.
    """
    e = tl.program_id(0)
    split = tl.program_id(1)
    image = image_of_expression(expr_offsets_ptr, e, images) if HAS_GROUPS else e
    z_l_ptr += e.to(tl.int64) * L_t * C
    row_base = e.to(tl.int64) * L_v

    words = tl.arange(0, BLOCK_T)
    channels = tl.arange(0, BLOCK_C)
    is_channel = channels < C
    is_word = words < L_t
    z_l = tl.load(
        z_l_ptr + words[:, None] * C + channels[None, :],
        mask=inside(is_word, channels, C, BLOCK_C),
        other=0.0,
    )
    may_keep = is_word
    if HAS_MASK:
        may_keep = tl.load(word_mask_ptr + e.to(tl.int64) * L_t + words, mask=is_word, other=0) != 0

    may_keep_0 = packed(may_keep, 0)
    may_keep_1 = packed(may_keep, 1)

    HALF: tl.constexpr = BLOCK_C // 2
    QUARTER: tl.constexpr = BLOCK_C // 4
    in_tile = tl.arange(0, BLOCK_V)
    gathered = tl.zeros((BLOCK_C, BLOCK_T), dtype=tl.float32)
    first = split * tiles_per_split
    end = min(first + tiles_per_split, tl.cdiv(L_v, BLOCK_V))
    for tile in tl.range(first, end, disable_licm=True):
        start = tile * BLOCK_V
        rows = row_base + start + in_tile
        is_row = start + in_tile < L_v
        z_v = tl.reshape(z_v_desc.load([image, start, 0]), (BLOCK_V, BLOCK_C))

        S = tl.dot(z_v, tl.trans(z_l), input_precision="ieee")
        if SCALE != 1.0:
            S *= SCALE
        # ``tile >> 31`` is 0, but keeps the compiler from holding a register per word through the loop.
        bits = tl.where(words < 32, may_keep_0 | (tile >> 31), may_keep_1 | (tile >> 31))
        kept = gate(S, ((bits >> (words % 32)) & 1) != 0, threshold, KEEP, FILL)
        store_gate(gate_ptr + (row_base + start) * GATE_WORDS, kept, is_row, GATE_WORDS)
        A = softmax_of_kept(S, kept, is_row if COLUMNS else None).to(z_v.dtype)
        if COLUMNS:
            store_column_sums(column_partial_ptr, A, e, tile, tl.cdiv(L_v, BLOCK_V), L_t, 64)

        X = tl.dot(A, z_l, z_v.to(tl.float32), input_precision="ieee")
        gathered = tl.dot(tl.trans(z_v), A, gathered, input_precision="ieee")

        mean = tl.sum(X, axis=1) / C
        centred = X - mean[:, None]
        if C % BLOCK_C != 0:
            centred = tl.where(is_channel[None, :], centred, 0.0)
        rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / C + eps)
        x_hat = X * rstd[:, None] - (mean * rstd)[:, None]
        low, high = halves(x_hat, BLOCK_V, HALF)
        x_hat_0, x_hat_1 = halves(low, BLOCK_V, QUARTER)
        x_hat_2, x_hat_3 = halves(high, BLOCK_V, QUARTER)
        store_quarter(f_lav_desc, e, start, x_hat_0, weight_ptr, bias_ptr, 0, C, BLOCK_V, QUARTER)
        store_quarter(f_lav_desc, e, start, x_hat_1, weight_ptr, bias_ptr, 1, C, BLOCK_V, QUARTER)
        store_quarter(f_lav_desc, e, start, x_hat_2, weight_ptr, bias_ptr, 2, C, BLOCK_V, QUARTER)
        store_quarter(f_lav_desc, e, start, x_hat_3, weight_ptr, bias_ptr, 3, C, BLOCK_V, QUARTER)
        tl.store(mean_ptr + rows, mean, mask=is_row)
        tl.store(rstd_ptr + rows, rstd, mask=is_row)

    partial_ptr += (e.to(tl.int64) * tl.num_programs(1) + split) * L_t * C
    places = words[None, :] * C + channels[:, None]
    tl.store(partial_ptr + places, gathered, mask=is_word[None, :] & is_channel[:, None])
