"""The backward kernels: the words first, then one walk over the visual tokens, then the words again."""

from __future__ import annotations

import triton
import triton.language as tl

from maris_fast.kernels.mutual_attention.forward import SIZES, inside, softmax_of_kept, where_also


@triton.jit(do_not_specialize=SIZES)
def mutual_attention_bwd_words_kernel(
    grad_ptr: tl.tensor,  # [E * L_t, C], dL/df_val
    y_ptr: tl.tensor,  # [E * L_t, C], fp32
    z_l_ptr: tl.tensor,  # [E * L_t, C]
    column_sum_ptr: tl.tensor,  # [E * L_t], fp32
    weight_ptr: tl.tensor,  # [C]
    dy_ptr: tl.tensor,  # [E * L_t, C], fp32, with COLUMNS over the column's sum
    shift_ptr: tl.tensor,  # [E * L_t], fp32, with COLUMNS: dy · Aᵀ Z_v over the column's sum
    dw_partial_ptr: tl.tensor,  # [programs, C]
    db_partial_ptr: tl.tensor,  # [programs, C]
    total: tl.tensor,
    eps: tl.tensor,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """Grid (ceil(E * L_t / BLOCK_R)): dY through the LayerNorm of f_val, for a block of words.

    With COLUMNS, Y = U / c + Z_l: dU = dY / c, and each A of the column gets -dU · U / c.
    """
    program = tl.program_id(0).to(tl.int64)
    rows = program * BLOCK_R + tl.arange(0, BLOCK_R)
    channels = tl.arange(0, BLOCK_C)
    is_channel = channels < C
    is_place = (rows < total)[:, None] & is_channel[None, :]
    places = rows[:, None] * C + channels[None, :]

    y = tl.load(y_ptr + places, mask=is_place, other=0.0)
    grad = tl.load(grad_ptr + places, mask=is_place, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + channels, mask=is_channel, other=0.0).to(tl.float32)
    centred = tl.where(is_channel[None, :], y - (tl.sum(y, axis=1) / C)[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / C + eps)
    y_hat = centred * rstd[:, None]
    gw = grad * weight[None, :]
    c1 = tl.sum(gw, axis=1) / C
    c2 = tl.sum(gw * y_hat, axis=1) / C
    dy = rstd[:, None] * (gw - c1[:, None] - y_hat * c2[:, None])
    if COLUMNS:
        column = tl.load(column_sum_ptr + rows, mask=rows < total, other=1.0)
        dy = dy / column[:, None]
        mean_of_pixels = y - tl.load(z_l_ptr + places, mask=is_place, other=0.0).to(tl.float32)
        tl.store(shift_ptr + rows, tl.sum(dy * mean_of_pixels, axis=1), mask=rows < total)
    tl.store(dy_ptr + places, dy, mask=is_place)
    tl.store(dw_partial_ptr + program * C + channels, tl.sum(grad * y_hat, axis=0), mask=is_channel)
    tl.store(db_partial_ptr + program * C + channels, tl.sum(grad, axis=0), mask=is_channel)


@triton.jit(do_not_specialize=SIZES)
def mutual_attention_bwd_gram_kernel(
    z_l_ptr: tl.tensor,  # [E, L_t, C]
    gram_ptr: tl.tensor,  # [E, BLOCK_T, BLOCK_T], fp32
    word_sum_ptr: tl.tensor,  # [E, BLOCK_T], fp32
    L_t: tl.tensor,
    C: tl.constexpr,
    BLOCK_T: tl.constexpr,
    CHUNK: tl.constexpr,
) -> None:
    """Grid (E): Z_l Z_lᵀ and each word's sum over C, zero for the padding up to BLOCK_T."""
    e = tl.program_id(0).to(tl.int64)
    words = tl.arange(0, BLOCK_T)
    gram = tl.zeros((BLOCK_T, BLOCK_T), dtype=tl.float32)
    word_sum = tl.zeros((BLOCK_T,), dtype=tl.float32)
    for start in range(0, C, CHUNK):
        channels = start + tl.arange(0, CHUNK)
        is_z_l = (words < L_t)[:, None] & (channels < C)[None, :]
        z_l = tl.load(
            z_l_ptr + (e * L_t + words)[:, None] * C + channels[None, :],
            mask=is_z_l,
            other=0.0,
        )
        gram = tl.dot(z_l, tl.trans(z_l), gram, input_precision="ieee")
        word_sum += tl.sum(z_l.to(tl.float32), axis=1)
    places = words[:, None] * BLOCK_T + words[None, :]
    tl.store(gram_ptr + e * BLOCK_T * BLOCK_T + places, gram)
    tl.store(word_sum_ptr + e * BLOCK_T + words, word_sum)


@triton.jit
def sum_over_words(
    weights: tl.tensor,  # [ROWS, WORDS]
    of_words: tl.tensor,  # [WORDS, COLUMNS]
    total: tl.tensor,  # [ROWS, COLUMNS], fp32
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
    COLUMNS: tl.constexpr,
    IN_QUARTERS: tl.constexpr,
) -> tl.tensor:
    """total + weights @ of_words.

    Without tensor cores a product is unrolled over its whole inner dimension, and for 128 words the operands
    alone overflow the registers: with ``IN_QUARTERS`` they hold a quarter of the words at a time.
    """
    if IN_QUARTERS:
        QUARTER: tl.constexpr = WORDS // 4
        weights_0, weights_1 = tl.split(tl.permute(tl.reshape(weights, (ROWS, 2, 2, QUARTER)), (0, 2, 3, 1)))
        words_0, words_1 = tl.split(tl.permute(tl.reshape(of_words, (2, 2, QUARTER, COLUMNS)), (1, 2, 3, 0)))
        weights_00, weights_01 = tl.split(tl.permute(weights_0, (0, 2, 1)))
        weights_10, weights_11 = tl.split(tl.permute(weights_1, (0, 2, 1)))
        words_00, words_01 = tl.split(tl.permute(words_0, (1, 2, 0)))
        words_10, words_11 = tl.split(tl.permute(words_1, (1, 2, 0)))
        # The barriers keep the compiler from loading the next quarter early.
        total = tl.dot(weights_00, words_00, total, input_precision="ieee")
        tl.debug_barrier()
        total = tl.dot(weights_01, words_01, total, input_precision="ieee")
        tl.debug_barrier()
        total = tl.dot(weights_10, words_10, total, input_precision="ieee")
        tl.debug_barrier()
        total = tl.dot(weights_11, words_11, total, input_precision="ieee")
    else:
        total = tl.dot(weights, of_words, total, input_precision="ieee")
    return total


@triton.jit(do_not_specialize=SIZES)
def mutual_attention_bwd_kernel(
    grad_ptr: tl.tensor,  # [E, L_v, C], dL/df_lav
    z_v_ptr: tl.tensor,  # [I, L_v, C]
    z_l_ptr: tl.tensor,  # [E, L_t, C]
    weight_ptr: tl.tensor,  # [C]
    expr_offsets_ptr: tl.tensor,  # [I + 1]
    mean_ptr: tl.tensor,  # [E, L_v]
    rstd_ptr: tl.tensor,  # [E, L_v]
    gate_ptr: tl.tensor,  # [E, L_v, GATE_WORDS], 32 pairs an int32
    dy_ptr: tl.tensor,  # [E, L_t, C], fp32, of the words kernel
    shift_ptr: tl.tensor,  # [E, L_t], fp32
    gram_ptr: tl.tensor,  # [E, BLOCK_T, BLOCK_T], fp32
    word_sum_ptr: tl.tensor,  # [E, BLOCK_T], fp32
    dz_v_ptr: tl.tensor,  # [I, L_v, C]
    dz_v_sum_ptr: tl.tensor,  # [I, splits, BLOCK_V, C], fp32, this program's own slice: one tile of dZ_v
    dz_l_partial_ptr: tl.tensor,  # [E, splits, L_t, C], this split's share of dZ_l - dY
    dw_partial_ptr: tl.tensor,  # [I, splits, C]
    db_partial_ptr: tl.tensor,  # [I, splits, C]
    L_v: tl.tensor,
    L_t: tl.tensor,
    tiles_per_split: tl.tensor,
    C: tl.constexpr,
    GATE_WORDS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SCALE: tl.constexpr,
    HAS_GROUPS: tl.constexpr,
    HAS_GRAM: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_T: tl.constexpr,
    CHUNK: tl.constexpr,
    STAGES: tl.constexpr,
) -> None:
    """Grid (I, splits): a tile's dZ_v accumulates over its image's expressions in order, without atomics.

    C is walked twice in chunks, so that neither X nor a gradient of full width is ever held: first for what a
    row needs from all channels (S, (G w) Z_lᵀ, Z_v dYᵀ and two sums), then for the gradients, chunk by chunk.
    """
    IN_QUARTERS: tl.constexpr = not HAS_GRAM and BLOCK_T > 64
    image = tl.program_id(0)
    split = tl.program_id(1)
    splits = tl.num_programs(1)
    program = image.to(tl.int64) * splits + split
    if HAS_GROUPS:
        first_e = tl.load(expr_offsets_ptr + image)
        end_e = tl.load(expr_offsets_ptr + image + 1)
    else:
        first_e = image
        end_e = image + 1
    z_v_ptr += image.to(tl.int64) * L_v * C
    dz_v_ptr += image.to(tl.int64) * L_v * C
    dz_v_sum_ptr += program * BLOCK_V * C
    dw_partial_ptr += program * C
    db_partial_ptr += program * C

    words = tl.arange(0, BLOCK_T)
    is_word = words < L_t
    in_tile = tl.arange(0, BLOCK_V)
    first_tile = split * tiles_per_split
    end_tile = min(first_tile + tiles_per_split, tl.cdiv(L_v, BLOCK_V))
    for tile in tl.range(first_tile, end_tile, num_stages=1, disable_licm=True):
        # The tile's offset needs 64 bits; inside it 32 are enough, which halves the cost of addresses.
        start_v = tl.cast(tile, tl.int64) * BLOCK_V
        is_row = start_v + in_tile < L_v
        if HAS_GROUPS:  # noqa: SIM102 (the outer one is the compiler's)
            if first_e == end_e:
                for start in range(0, C, CHUNK):
                    channels = start + tl.arange(0, CHUNK)
                    tl.store(
                        dz_v_ptr + start_v * C + in_tile[:, None] * C + channels[None, :],
                        tl.zeros((BLOCK_V, CHUNK), dtype=dz_v_ptr.dtype.element_ty),
                        mask=inside(is_row, channels, C, CHUNK),
                    )
                    nothing = tl.zeros((CHUNK,), dtype=tl.float32)
                    tl.store(dw_partial_ptr + channels, nothing, mask=channels < C)
                    tl.store(db_partial_ptr + channels, nothing, mask=channels < C)
        for e in tl.range(first_e, end_e, num_stages=1, disable_licm=True):
            row_base = tl.cast(e, tl.int64) * L_v + start_v
            word_base = tl.cast(e, tl.int64) * L_t

            S = tl.zeros((BLOCK_V, BLOCK_T), dtype=tl.float32)
            gw_z_l = tl.zeros((BLOCK_V, BLOCK_T), dtype=tl.float32)
            z_v_dy = tl.zeros((BLOCK_V, BLOCK_T), dtype=tl.float32)
            gw_sum = tl.zeros((BLOCK_V,), dtype=tl.float32)
            gw_z_v = tl.zeros((BLOCK_V,), dtype=tl.float32)
            word_sum = tl.zeros((BLOCK_T,), dtype=tl.float32)
            for start in tl.range(0, C, CHUNK, num_stages=STAGES, disable_licm=True):
                channels = start + tl.arange(0, CHUNK)
                is_channel = channels < C
                is_z_v = inside(is_row, channels, C, CHUNK)
                is_z_l = inside(is_word, channels, C, CHUNK)
                places_v = in_tile[:, None] * C + channels[None, :]
                places_l = words[:, None] * C + channels[None, :]
                z_v = tl.load(z_v_ptr + start_v * C + places_v, mask=is_z_v, other=0.0)
                z_l = tl.load(z_l_ptr + word_base * C + places_l, mask=is_z_l, other=0.0)
                dy = tl.load(dy_ptr + word_base * C + places_l, mask=is_z_l, other=0.0).to(z_v.dtype)
                grad = tl.load(grad_ptr + row_base * C + places_v, mask=is_z_v, other=0.0)
                weight = tl.load(weight_ptr + channels, mask=is_channel, other=0.0).to(tl.float32)
                gw = grad.to(tl.float32) * weight[None, :]
                S = tl.dot(z_v, tl.trans(z_l), S, input_precision="ieee")
                gw_z_l = tl.dot(gw.to(z_v.dtype), tl.trans(z_l), gw_z_l, input_precision="ieee")
                z_v_dy = tl.dot(z_v, tl.trans(dy), z_v_dy, input_precision="ieee")
                gw_sum += tl.sum(gw, axis=1)
                gw_z_v += tl.sum(gw * z_v.to(tl.float32), axis=1)
                if not HAS_GRAM:
                    word_sum += tl.sum(z_l.to(tl.float32), axis=1)

            mean = tl.load(mean_ptr + row_base + in_tile, mask=is_row, other=0.0)
            rstd = tl.load(rstd_ptr + row_base + in_tile, mask=is_row, other=0.0)
            slots = in_tile[:, None] * GATE_WORDS + (words // 32)[None, :]
            packed = tl.load(
                gate_ptr + row_base * GATE_WORDS + slots, mask=is_row[:, None] & is_word[None, :], other=0
            )
            kept = ((packed >> (words % 32)[None, :]) & 1) != 0
            A = softmax_of_kept(S * SCALE if SCALE != 1.0 else S, kept)

            c1 = gw_sum / C
            c2 = rstd * (tl.sum(A * gw_z_l, axis=1) + gw_z_v - mean * gw_sum) / C
            if HAS_GRAM:
                square = words[:, None] * BLOCK_T + words[None, :]
                gram = tl.load(gram_ptr + tl.cast(e, tl.int64) * BLOCK_T * BLOCK_T + square)
                word_sum = tl.load(word_sum_ptr + tl.cast(e, tl.int64) * BLOCK_T + words)
                # With 16-bit inputs, this correction term has no precision beyond TF32's 10 bits.
                x_z_l = tl.dot(A, gram, S, input_precision="tf32")
            else:
                x_z_l = tl.zeros((BLOCK_V, BLOCK_T), dtype=tl.float32)
                for start in tl.range(0, C, CHUNK, num_stages=STAGES, disable_licm=True):
                    channels = start + tl.arange(0, CHUNK)
                    is_z_v = inside(is_row, channels, C, CHUNK)
                    is_z_l = inside(is_word, channels, C, CHUNK)
                    places_v = in_tile[:, None] * C + channels[None, :]
                    places_l = words[:, None] * C + channels[None, :]
                    z_v = tl.load(z_v_ptr + start_v * C + places_v, mask=is_z_v, other=0.0)
                    z_l = tl.load(z_l_ptr + word_base * C + places_l, mask=is_z_l, other=0.0)
                    X = sum_over_words(A, z_l, z_v, BLOCK_V, BLOCK_T, CHUNK, IN_QUARTERS)
                    x_z_l = tl.dot(X, tl.trans(z_l), x_z_l, input_precision="ieee")
            # word_sum is used once: Triton 3.6 can't compile a loop's sum that is used twice.
            c2_rstd = c2 * rstd
            dx_z_l = gw_z_l - c2_rstd[:, None] * x_z_l
            dx_z_l -= (c1 - c2_rstd * mean)[:, None] * word_sum[None, :]
            dA = rstd[:, None] * dx_z_l + z_v_dy
            if COLUMNS:
                dA -= tl.load(shift_ptr + word_base + words, mask=is_word, other=0.0)[None, :]
            dS = A * (dA - tl.sum(A * dA, axis=1)[:, None])
            if SCALE != 1.0:
                dS *= SCALE
            A = A.to(z_v_ptr.dtype.element_ty)
            dS = dS.to(z_v_ptr.dtype.element_ty)

            # No prefetch in this loop: it reads back what it stored for the previous tile or expression.
            for start in tl.range(0, C, CHUNK, num_stages=1, disable_licm=True):
                channels = start + tl.arange(0, CHUNK)
                is_channel = channels < C
                is_z_v = inside(is_row, channels, C, CHUNK)
                is_z_l = inside(is_word, channels, C, CHUNK)
                places_v = in_tile[:, None] * C + channels[None, :]
                places_l = words[:, None] * C + channels[None, :]
                z_v = tl.load(z_v_ptr + start_v * C + places_v, mask=is_z_v, other=0.0)
                z_l = tl.load(z_l_ptr + word_base * C + places_l, mask=is_z_l, other=0.0)
                X = sum_over_words(A, z_l, z_v.to(tl.float32), BLOCK_V, BLOCK_T, CHUNK, IN_QUARTERS)
                x_hat = (X - mean[:, None]) * rstd[:, None]
                grad = tl.load(grad_ptr + row_base * C + places_v, mask=is_z_v, other=0.0).to(tl.float32)

                is_later = where_also(is_channel, (tile > first_tile) | (e > first_e))
                dw = tl.load(dw_partial_ptr + channels, mask=is_later, other=0.0)
                db = tl.load(db_partial_ptr + channels, mask=is_later, other=0.0)
                dw += tl.sum(grad * x_hat, axis=0)
                db += tl.sum(grad, axis=0)
                tl.store(dw_partial_ptr + channels, dw, mask=is_channel)
                tl.store(db_partial_ptr + channels, db, mask=is_channel)

                weight = tl.load(weight_ptr + channels, mask=is_channel, other=0.0).to(tl.float32)
                dX = rstd[:, None] * (grad * weight[None, :] - c1[:, None] - x_hat * c2[:, None])
                if C % CHUNK != 0:
                    dX = tl.where(is_z_v, dX, 0.0)

                if IN_QUARTERS:
                    tl.debug_barrier()
                dz_l = tl.dot(tl.trans(A), dX.to(z_v.dtype), input_precision="ieee")
                if IN_QUARTERS:
                    tl.debug_barrier()
                dz_l = tl.dot(tl.trans(dS), z_v, dz_l, input_precision="ieee")
                own_l = dz_l_partial_ptr + (word_base * splits + split * L_t) * C + places_l
                dz_l += tl.load(own_l, mask=where_also(is_z_l, tile > first_tile), other=0.0)
                tl.store(own_l, dz_l, mask=is_z_l)

                dy = tl.load(dy_ptr + word_base * C + places_l, mask=is_z_l, other=0.0).to(z_v.dtype)
                dz_v = sum_over_words(A, dy, dX, BLOCK_V, BLOCK_T, CHUNK, IN_QUARTERS)
                dz_v = sum_over_words(dS, z_l, dz_v, BLOCK_V, BLOCK_T, CHUNK, IN_QUARTERS)
                if HAS_GROUPS:
                    dz_v += tl.load(dz_v_sum_ptr + places_v, mask=where_also(is_z_v, e > first_e), other=0.0)
                    tl.store(dz_v_sum_ptr + places_v, dz_v, mask=where_also(is_z_v, e + 1 < end_e))
                    is_z_v = where_also(is_z_v, e + 1 == end_e)
                dz_v = dz_v.to(dz_v_ptr.dtype.element_ty)
                tl.store(dz_v_ptr + start_v * C + places_v, dz_v, mask=is_z_v)
            # What one thread stored, another may read back in the next iteration.
            tl.debug_barrier()


@triton.jit(do_not_specialize=SIZES)
def mutual_attention_bwd_finish_kernel(
    dy_ptr: tl.tensor,  # [E, L_t, C], fp32
    partial_ptr: tl.tensor,  # [E, splits, L_t, C]
    column_sum_ptr: tl.tensor,  # [E, L_t], fp32
    dz_l_ptr: tl.tensor,  # [E, L_t, C]
    L_t: tl.tensor,
    splits: tl.tensor,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """Grid (E * L_t): dZ_l of one word, dY and the splits' shares added in order."""
    row = tl.program_id(0).to(tl.int64)
    e = row // L_t
    word = row % L_t
    channels = tl.arange(0, BLOCK_C)
    is_channel = channels < C
    dz_l = tl.load(dy_ptr + row * C + channels, mask=is_channel, other=0.0)
    if COLUMNS:
        dz_l *= tl.load(column_sum_ptr + row)
    for split in range(0, splits):
        place = ((e * splits + split) * L_t + word) * C
        dz_l += tl.load(partial_ptr + place + channels, mask=is_channel, other=0.0)
    tl.store(dz_l_ptr + row * C + channels, dz_l.to(dz_l_ptr.dtype.element_ty), mask=is_channel)
