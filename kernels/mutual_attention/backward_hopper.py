"""A backward for Hopper: tiles by TMA, products as wgmma, sums accumulated over all tiles."""

# mypy: disable-error-code="assignment, var-annotated"
from __future__ import annotations

import triton
import triton.language as tl

from maris_fast.kernels.mutual_attention.forward import SIZES, image_of_expression, inside
from maris_fast.kernels.mutual_attention.forward_hopper import halves, softmax_of_kept

# Columns of the thinnest product on tensor cores.
THIN = tl.constexpr(16)


@triton.jit
def part_of_words(
    of_words_ptr: tl.tensor,  # [L_t, C]
    L_t: tl.tensor,
    part: tl.constexpr,
    C: tl.constexpr,
    BLOCK_T: tl.constexpr,
    PART: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> tl.tensor:
    """[BLOCK_T, PART]: one part of the channels of all words."""
    words = tl.arange(0, BLOCK_T)
    channels = part * PART + tl.arange(0, PART)
    is_place = inside(words < L_t, channels, C, BLOCK_C)
    return tl.load(of_words_ptr + words[:, None] * C + channels[None, :], mask=is_place, other=0.0)


@triton.jit
def part_of_weight(
    weight_ptr: tl.tensor, part: tl.constexpr, C: tl.constexpr, PART: tl.constexpr
) -> tl.tensor:
    """[PART], fp32."""
    channels = part * PART + tl.arange(0, PART)
    return tl.load(weight_ptr + channels, mask=channels < C, other=0.0).to(tl.float32)


@triton.jit
def in_columns(x: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """[n, THIN] in 16 bits, whose rows add up to x [n]: x rounded, and its rounding error."""
    column = tl.arange(0, THIN)[None, :]
    rounded = x.to(dtype).to(tl.float32)
    rest = tl.where(column == 1, (x - rounded)[:, None], 0.0)
    return tl.where(column == 0, rounded[:, None], rest).to(dtype)


@triton.jit
def of_each_row(x: tl.tensor, zero: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """[rows, THIN] in 16 bits, whose product with ``of_each_word(y, z)`` is x yᵀ + z.

    ``zero`` is 0, but known only in the loop: outside of it the column numbers would take up registers.
    """
    column = tl.arange(0, THIN)[None, :] + zero
    rounded = x.to(dtype).to(tl.float32)
    columns = tl.where(column < 5, 1.0, 0.0)
    columns = tl.where(column == 2, (x - rounded)[:, None], columns)
    return tl.where(column < 2, rounded[:, None], columns).to(dtype)


@triton.jit
def of_each_word(y: tl.tensor, z: tl.tensor, dtype: tl.constexpr) -> tl.tensor:
    """[THIN, words] in 16 bits: y rounded, its rounding error, y rounded, z rounded, its rounding error."""
    row = tl.arange(0, THIN)[:, None]
    rounded_y = y.to(dtype).to(tl.float32)
    rounded_z = z.to(dtype).to(tl.float32)
    rows = tl.where((row == 0) | (row == 2), rounded_y[None, :], 0.0)
    rows = tl.where(row == 1, (y - rounded_y)[None, :], rows)
    rows = tl.where(row == 3, rounded_z[None, :], rows)
    return tl.where(row == 4, (z - rounded_z)[None, :], rows).to(dtype)


@triton.jit
def store_piece(
    piece: tl.constexpr,
    dz_v: tl.tensor,  # [BLOCK_V, PIECE], A dY + B Z_l
    grad_ptr: tl.tensor,  # at the tile's first row, like the next two
    z_v_ptr: tl.tensor,
    dz_v_ptr: tl.tensor,
    weight_ptr: tl.tensor,
    rstd: tl.tensor,  # [BLOCK_V]
    a: tl.tensor,
    k: tl.tensor,
    is_row: tl.tensor,
    C: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """dZ_v = r (G w + k) - a Z_v + A dY + B Z_l, with G and Z_v from the cache, not held in registers."""
    BLOCK_V: tl.constexpr = dz_v.shape[0]
    PIECE: tl.constexpr = dz_v.shape[1]
    channels = piece * PIECE + tl.arange(0, PIECE)
    places = tl.arange(0, BLOCK_V)[:, None] * C + channels[None, :]
    is_place = inside(is_row, channels, C, BLOCK_C)
    weight = part_of_weight(weight_ptr, piece, C, PIECE)
    grad = tl.load(grad_ptr + places, mask=is_place, other=0.0).to(tl.float32)
    dz_v += rstd[:, None] * (grad * weight[None, :] + k[:, None])
    z_v = tl.load(z_v_ptr + places, mask=is_place, other=0.0).to(tl.float32)
    dz_v -= a[:, None] * z_v
    tl.store(dz_v_ptr + places, dz_v.to(dz_v_ptr.dtype.element_ty), mask=is_place)


@triton.jit(do_not_specialize=SIZES)
def mutual_attention_bwd_hopper_kernel(
    grad_desc: tl.tensor,  # [E, L_v, C], dL/df_lav, in blocks [1, BLOCK_V, BLOCK_C // PARTS]
    z_v_desc: tl.tensor,  # [I, L_v, C], likewise
    grad_ptr: tl.tensor,  # the same two by address
    z_v_ptr: tl.tensor,
    z_l_ptr: tl.tensor,  # [E, L_t, C]
    weight_ptr: tl.tensor,  # [C]
    expr_offsets_ptr: tl.tensor,  # [I + 1]
    mean_ptr: tl.tensor,  # [E, L_v]
    rstd_ptr: tl.tensor,  # [E, L_v]
    gate_ptr: tl.tensor,  # [E, L_v], 32 pairs an int32
    dy_ptr: tl.tensor,  # [E, L_t, C], fp32, of the words kernel
    shift_ptr: tl.tensor,  # [E, L_t], fp32
    gram_ptr: tl.tensor,  # [E, BLOCK_T, BLOCK_T], fp32
    word_sum_ptr: tl.tensor,  # [E, BLOCK_T], fp32
    dz_v_ptr: tl.tensor,  # [E, L_v, C], one for each expression
    dz_l_partial_ptr: tl.tensor,  # [E, splits, L_t, C], this split's share of dZ_l - dY
    dw_partial_ptr: tl.tensor,  # [E, splits, C], zeros
    db_partial_ptr: tl.tensor,  # [E, splits, C], zeros
    images: tl.tensor,
    L_v: tl.tensor,
    L_t: tl.tensor,
    tiles_per_split: tl.tensor,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    SCALE: tl.constexpr,
    HAS_GROUPS: tl.constexpr,
    BLOCK_V: tl.constexpr,
    BLOCK_T: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PARTS: tl.constexpr,
) -> None:
    """Grid (E, splits). The README's equations regrouped, so that no tile needs X or dX.

    With a = c2 r², k = c2 r μ - c1 and B = dS - a A, a tile needs only products of what TMA loaded:
    dZ_v = r (G w + k) - a Z_v + A dY + B Z_l, and over all tiles H = Gᵀ (r A), P = Z_vᵀ B,
    Q = (r A)ᵀ (c2 r A) and u = (r A)ᵀ k. Then dZ_l - dY = w Hᵀ + Pᵀ - Q Z_l + u, and
    dw = Σ G r (Z_v - μ) + Σ_words Z_l Hᵀ.

    Sums over the channels of a row are thin products with w. Sums over rows, dw and db, accumulate in memory:
    in registers they would take one per channel in every thread. Each number is added to atomically by this
    program alone, and for all tiles by the same thread, so the order of additions is fixed.
    """
    PART: tl.constexpr = BLOCK_C // PARTS
    e = tl.program_id(0)
    split = tl.program_id(1)
    image = image_of_expression(expr_offsets_ptr, e, images) if HAS_GROUPS else e
    words = tl.arange(0, BLOCK_T)
    in_tile = tl.arange(0, BLOCK_V)
    row_base = e.to(tl.int64) * L_v
    program = e.to(tl.int64) * tl.num_programs(1) + split
    dw_partial_ptr += program * C
    db_partial_ptr += program * C
    z_l_ptr += e.to(tl.int64) * L_t * C
    dy_ptr += e.to(tl.int64) * L_t * C
    dtype: tl.constexpr = z_l_ptr.dtype.element_ty

    z_l = ()
    z_l_w = ()
    w = ()
    dy = ()
    H = ()
    P = ()
    for part in tl.static_range(PARTS):
        z_l += (part_of_words(z_l_ptr, L_t, part, C, BLOCK_T, PART, BLOCK_C),)
        dy += (part_of_words(dy_ptr, L_t, part, C, BLOCK_T, PART, BLOCK_C).to(dtype),)
        weight = part_of_weight(weight_ptr, part, C, PART)
        w += (in_columns(weight, dtype),)
        z_l_w += ((z_l[part].to(tl.float32) * weight[None, :]).to(dtype),)
        H += (tl.zeros((PART, BLOCK_T), dtype=tl.float32),)
        P += (tl.zeros((PART, BLOCK_T), dtype=tl.float32),)
    square = words[:, None] * BLOCK_T + words[None, :]
    gram = tl.load(gram_ptr + e.to(tl.int64) * BLOCK_T * BLOCK_T + square).to(dtype)
    word_sum = tl.load(word_sum_ptr + e.to(tl.int64) * BLOCK_T + words)
    if COLUMNS or HAS_GROUPS:
        shift = tl.zeros((BLOCK_T,), dtype=tl.float32)
        if COLUMNS:
            shift = tl.load(shift_ptr + e.to(tl.int64) * L_t + words, mask=words < L_t, other=0.0)
        of_words = of_each_word(word_sum, -shift, dtype)
    Q = tl.zeros((2 * BLOCK_T, BLOCK_T), dtype=tl.float32)
    u = tl.zeros((BLOCK_T,), dtype=tl.float32)

    first = split * tiles_per_split
    end = min(first + tiles_per_split, tl.cdiv(L_v, BLOCK_V))
    for tile in tl.range(first, end, disable_licm=True):
        start = tile * BLOCK_V
        is_row = start + in_tile < L_v
        rows = row_base + start + in_tile
        mean = tl.load(mean_ptr + rows, mask=is_row, other=0.0)
        rstd = tl.load(rstd_ptr + rows, mask=is_row, other=0.0)
        bits = tl.load(gate_ptr + rows, mask=is_row, other=0)

        mean_rstd = mean * rstd
        z_v = ()
        grad = ()
        gw_sum = tl.zeros((BLOCK_V, THIN), dtype=tl.float32)
        gw_z_v = tl.zeros((BLOCK_V, THIN), dtype=tl.float32)
        for part in tl.static_range(PARTS):
            z_v += (tl.reshape(z_v_desc.load([image, start, part * PART]), (BLOCK_V, PART)),)
            grad += (tl.reshape(grad_desc.load([e, start, part * PART]), (BLOCK_V, PART)),)
            g = grad[part].to(tl.float32)
            z = z_v[part].to(tl.float32)
            gw_sum = tl.dot(grad[part], w[part], gw_sum, input_precision="ieee")
            gw_z_v = tl.dot((g * z).to(dtype), w[part], gw_z_v, input_precision="ieee")
            channels = part * PART + tl.arange(0, PART)
            dw = tl.sum(g * (z * rstd[:, None] - mean_rstd[:, None]), axis=0)
            tl.atomic_add(dw_partial_ptr + channels, dw, mask=channels < C, sem="relaxed")
            tl.atomic_add(db_partial_ptr + channels, tl.sum(g, axis=0), mask=channels < C, sem="relaxed")
        gw_sum = tl.sum(gw_sum, axis=1)
        gw_z_v = tl.sum(gw_z_v, axis=1)

        S = tl.zeros((BLOCK_V, BLOCK_T), dtype=tl.float32)
        gw_z_l = tl.zeros((BLOCK_V, BLOCK_T), dtype=tl.float32)
        z_v_dy = tl.zeros((BLOCK_V, BLOCK_T), dtype=tl.float32)
        for part in tl.static_range(PARTS):
            S = tl.dot(z_v[part], tl.trans(z_l[part]), S, input_precision="ieee")
            gw_z_l = tl.dot(grad[part], tl.trans(z_l_w[part]), gw_z_l, input_precision="ieee")
            z_v_dy = tl.dot(z_v[part], tl.trans(dy[part]), z_v_dy, input_precision="ieee")

        kept = ((bits[:, None] >> words[None, :]) & 1) != 0
        A = softmax_of_kept(S * SCALE if SCALE != 1.0 else S, kept)
        c1 = gw_sum / C
        c2_rstd = rstd * rstd * (tl.sum(A * gw_z_l, axis=1) + gw_z_v - mean * gw_sum) / C
        k = c2_rstd * mean - c1
        rounded_A = A.to(dtype)
        x_z_l = tl.dot(rounded_A, gram, S, input_precision="ieee")
        dx_z_l = gw_z_l - c2_rstd[:, None] * x_z_l
        if COLUMNS or HAS_GROUPS:
            # r k word_sum - shift as a thin product: in registers these would spill.
            of_rows = of_each_row(rstd * k, tile >> 31, dtype)
            z_v_dy = tl.dot(of_rows, of_words, z_v_dy, input_precision="ieee")
        else:
            dx_z_l += k[:, None] * word_sum[None, :]
        dA = rstd[:, None] * dx_z_l + z_v_dy
        dS = A * (dA - tl.sum(A * dA, axis=1)[:, None])
        if SCALE != 1.0:
            dS *= SCALE
        rA = rstd[:, None] * A
        B = (dS - c2_rstd[:, None] * rA).to(dtype)
        rA = rA.to(dtype)
        cA = (c2_rstd[:, None] * A).to(dtype)
        # With 32 rows Q would not be a wgmma, so B is appended to r A; its product is not used.
        both = tl.trans(tl.reshape(tl.join(rA, B), (BLOCK_V, 2 * BLOCK_T)))

        new_H = ()
        new_P = ()
        for part in tl.static_range(PARTS):
            new_H += (tl.dot(tl.trans(grad[part]), rA, H[part], input_precision="ieee"),)
            new_P += (tl.dot(tl.trans(z_v[part]), B, P[part], input_precision="ieee"),)
        H = new_H
        P = new_P
        Q = tl.dot(both, cA, Q, input_precision="ieee")
        # From the rounded r A, like H: where G is the same in all channels, dX is 0, and so is this sum.
        u += tl.sum(rA.to(tl.float32) * k[:, None], axis=0)

        a = rstd * c2_rstd
        first_row = (row_base + start) * C
        first_of_image = first_row
        if HAS_GROUPS:
            # Recomputed, like the weight below.
            first_of_image = (tl.cast(image | (tile >> 31), tl.int64) * L_v + start) * C
        # ``tile >> 31`` is 0, but makes the compiler reload the weight instead of holding it in registers.
        own_weight_ptr = weight_ptr + (tile >> 31) * 16
        for part in tl.static_range(PARTS):
            dz_v = tl.dot(rounded_A, dy[part], input_precision="ieee")
            dz_v = tl.dot(B, z_l[part], dz_v, input_precision="ieee")
            pieces = halves(dz_v, BLOCK_V, PART // 2)
            for half in tl.static_range(2):
                store_piece(
                    2 * part + half,
                    pieces[half],
                    grad_ptr + first_row,
                    z_v_ptr + first_of_image,
                    dz_v_ptr + first_row,
                    own_weight_ptr,
                    rstd,
                    a,
                    k,
                    is_row,
                    C,
                    BLOCK_C,
                )

    # The additions below must come after those of other threads to the same numbers.
    tl.debug_barrier()
    dz_l_partial_ptr += program * L_t * C
    Q, _ = tl.split(tl.permute(tl.reshape(Q, (BLOCK_T, 2, BLOCK_T)), (0, 2, 1)))
    rounded_Q = Q.to(dtype)
    rest_of_Q = (Q - rounded_Q.to(tl.float32)).to(dtype)
    for part in tl.static_range(PARTS):
        channels = part * PART + tl.arange(0, PART)
        is_channel = channels < C
        places = words[None, :] * C + channels[:, None]
        is_place = (words < L_t)[None, :] & is_channel[:, None]
        z_l_t = tl.load(z_l_ptr + places, mask=is_place, other=0.0)
        weight = part_of_weight(weight_ptr, part, C, PART)
        dw = tl.sum(z_l_t.to(tl.float32) * H[part], axis=1)
        tl.atomic_add(dw_partial_ptr + channels, dw, mask=is_channel, sem="relaxed")
        Q_z_l = tl.dot(z_l_t, tl.trans(rounded_Q), input_precision="ieee")
        Q_z_l = tl.dot(z_l_t, tl.trans(rest_of_Q), Q_z_l, input_precision="ieee")
        dz_l = weight[:, None] * H[part] + P[part] - Q_z_l + u[None, :]
        tl.store(dz_l_partial_ptr + places, dz_l, mask=is_place)


@triton.jit(do_not_specialize=SIZES)
def mutual_attention_bwd_sum_kernel(
    of_expressions_ptr: tl.tensor,  # [E, L_v, C], dZ_v of each
    expr_offsets_ptr: tl.tensor,  # [I + 1]
    dz_v_ptr: tl.tensor,  # [I, L_v, C]
    L_v: tl.tensor,
    C: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    """Grid (I, ceil(L_v C / BLOCK)): dZ_v of an image, its expressions added in order."""
    image = tl.program_id(0)
    places = tl.program_id(1).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    size = L_v.to(tl.int64) * C
    is_place = places < size
    dz_v = tl.zeros((BLOCK,), dtype=tl.float32)
    for e in range(tl.load(expr_offsets_ptr + image), tl.load(expr_offsets_ptr + image + 1)):
        own = of_expressions_ptr + tl.cast(e, tl.int64) * size + places
        dz_v += tl.load(own, mask=is_place, other=0.0).to(tl.float32)
    dz_v_ptr += image.to(tl.int64) * size
    tl.store(dz_v_ptr + places, dz_v.to(dz_v_ptr.dtype.element_ty), mask=is_place)
