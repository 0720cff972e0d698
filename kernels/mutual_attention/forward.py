"""The forward kernels: one walk over the visual tokens, then a small one over the words."""

from __future__ import annotations

import triton
import triton.language as tl

# What the gate keeps, as a constant of the kernel.
KEEP_RELEVANT = 0
KEEP_IRRELEVANT = 1
KEEP_ALL = 2

# No specialization for a size of 1 or a multiple of 16: what is compiled ahead of time is what runs, and a
# batch with one word or one image more causes no recompilation in the middle of training.
SIZES = ("images", "L_v", "L_t", "tiles_per_split", "splits", "tiles", "total")

# Tiles whose column sums the kernel over words reads at once.
TILES = tl.constexpr(128)


@triton.jit
def image_of_expression(expr_offsets_ptr: tl.tensor, e: tl.tensor, images: tl.tensor) -> tl.tensor:
    """The number of the I + 1 offsets that are at most e, less one: the last image that starts by e."""
    image = tl.full((), -1, tl.int32)
    for start in range(0, images, 64):
        index = start + tl.arange(0, 64)
        offset = tl.load(expr_offsets_ptr + index, mask=index < images, other=2147483647)
        image += tl.sum((offset <= e).to(tl.int32), axis=0)
    return image


@triton.jit
def inside(is_row: tl.tensor, channels: tl.tensor, C: tl.constexpr, BLOCK_C: tl.constexpr) -> tl.tensor:
    """Mask of a block of rows and channels; where the blocks divide C, only the rows are checked."""
    mask = is_row[:, None]
    if C % BLOCK_C != 0:
        mask = mask & (channels < C)[None, :]
    return mask


@triton.jit
def where_also(mask: tl.tensor, condition: tl.tensor) -> tl.tensor:
    """A block's mask, all false unless a scalar condition holds too.

    Compared with 0, as the interpreter widens such a condition to int32, which is no mask from Triton 3.9 on.
    """
    return (mask & condition) != 0


@triton.jit
def gate(
    S: tl.tensor, may_keep: tl.tensor, threshold: tl.tensor, KEEP: tl.constexpr, FILL: tl.constexpr
) -> tl.tensor:
    """Which pairs eq. 4 keeps, of the words that may be kept; with FILL, all of these if a row keeps none."""
    if KEEP == 0:
        kept = threshold <= S
    elif KEEP == 1:
        kept = threshold > S
    else:
        kept = tl.full(S.shape, 1, tl.int1)
    kept = kept & may_keep[None, :]
    if FILL:
        keeps_none = tl.max(kept.to(tl.int32), axis=1) == 0
        kept = kept | (keeps_none[:, None] & may_keep[None, :])
    return kept


@triton.jit
def store_gate(gate_ptr: tl.tensor, kept: tl.tensor, is_row: tl.tensor, GATE_WORDS: tl.constexpr) -> None:
    """Store a tile's gate, 32 words per int32."""
    ROWS: tl.constexpr = kept.shape[0]
    BITS: tl.constexpr = 32 if kept.shape[1] > 32 else kept.shape[1]
    SLOTS: tl.constexpr = kept.shape[1] // BITS
    bits = tl.reshape(kept.to(tl.int32), (ROWS, SLOTS, BITS)) << tl.arange(0, BITS)[None, None, :]
    slots = tl.arange(0, SLOTS)
    places = tl.arange(0, ROWS)[:, None] * GATE_WORDS + slots[None, :]
    tl.store(gate_ptr + places, tl.sum(bits, axis=2), mask=is_row[:, None] & (slots < GATE_WORDS)[None, :])


@triton.jit
def softmax_of_kept(S: tl.tensor, kept: tl.tensor, is_row: tl.tensor | None = None) -> tl.tensor:
    """Softmax over the kept words of each row; 0 in rows that keep nothing or that ``is_row`` excludes."""
    S = tl.where(kept, S, float("-inf"))
    highest = tl.max(S, axis=1)
    highest = tl.where(highest == float("-inf"), 0.0, highest)
    P = tl.where(kept, tl.exp(S - highest[:, None]), 0.0)
    total = tl.sum(P, axis=1)
    if is_row is not None:
        total = tl.where(is_row, total, float("inf"))
    return P / tl.where(total > 0, total, 1.0)[:, None]


@triton.jit
def store_column_sums(
    column_partial_ptr: tl.tensor,  # [E, tiles, L_t]
    A: tl.tensor,
    e: tl.tensor,
    tile: tl.tensor,
    tiles: tl.tensor,
    L_t: tl.tensor,
    ROWS: tl.constexpr,
) -> None:
    """Store a tile's sums of A's columns, of A as it enters Aᵀ Z_v: rounded, and 0 in rows beyond L_v.

    They go to memory per tile: kept through the loop, they would cost registers. In 16 bits, it is a product
    with ``ROWS`` rows of ones, for which A is where tensor cores need it; a sum over threads would spill.
    """
    column_partial_ptr += (e.to(tl.int64) * tiles + tile) * L_t
    words = tl.arange(0, A.shape[1])
    if A.dtype == tl.float32:
        tl.store(column_partial_ptr + words, tl.sum(A, axis=0), mask=words < L_t)
    else:
        rows = tl.arange(0, ROWS)
        ones = tl.full((ROWS, A.shape[0]), 1.0, tl.float32).to(A.dtype)
        sums = tl.dot(ones, A, input_precision="ieee")
        places = words[None, :] + 0 * rows[:, None]
        tl.store(column_partial_ptr + places, sums, mask=(rows == 0)[:, None] & (words < L_t)[None, :])


@triton.jit(do_not_specialize=SIZES)
def mutual_attention_fwd_kernel(
    z_v_ptr: tl.tensor,  # [I, L_v, C]
    z_l_ptr: tl.tensor,  # [E, L_t, C]
    weight_ptr: tl.tensor,  # [C]
    bias_ptr: tl.tensor,  # [C]
    word_mask_ptr: tl.tensor,  # [E, L_t], uint8
    expr_offsets_ptr: tl.tensor,  # [I + 1]
    f_lav_ptr: tl.tensor,  # [E, L_v, C]
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
    """Grid (E, splits): expressions of one image run side by side and read its tokens from the cache."""
    e = tl.program_id(0)
    split = tl.program_id(1)
    image = image_of_expression(expr_offsets_ptr, e, images) if HAS_GROUPS else e
    z_v_ptr += image.to(tl.int64) * L_v * C
    z_l_ptr += e.to(tl.int64) * L_t * C
    row_base = e.to(tl.int64) * L_v

    words = tl.arange(0, BLOCK_T)
    channels = tl.arange(0, BLOCK_C)
    is_channel = channels < C
    is_word = words < L_t
    is_z_l = inside(is_word, channels, C, BLOCK_C)
    places_l = words[:, None] * C + channels[None, :]
    z_l = tl.load(z_l_ptr + places_l, mask=is_z_l, other=0.0)
    may_keep = is_word
    if HAS_MASK:
        may_keep = tl.load(word_mask_ptr + e.to(tl.int64) * L_t + words, mask=is_word, other=0) != 0

    in_tile = tl.arange(0, BLOCK_V)
    places_v = in_tile[:, None] * C + channels[None, :]
    gathered = tl.zeros((BLOCK_T, BLOCK_C), dtype=tl.float32)
    first = split * tiles_per_split
    end = min(first + tiles_per_split, tl.cdiv(L_v, BLOCK_V))
    for tile in tl.range(first, end, disable_licm=True):
        # The tile's offset needs 64 bits; inside it 32 are enough, which halves the cost of addresses.
        start = tl.cast(tile, tl.int64) * BLOCK_V
        is_row = start + in_tile < L_v
        is_z_v = inside(is_row, channels, C, BLOCK_C)
        z_v = tl.load(z_v_ptr + start * C + places_v, mask=is_z_v, other=0.0)

        S = tl.dot(z_v, tl.trans(z_l), input_precision="ieee")
        if SCALE != 1.0:
            S *= SCALE
        kept = gate(S, may_keep, threshold, KEEP, FILL)
        store_gate(gate_ptr + (row_base + start) * GATE_WORDS, kept, is_row, GATE_WORDS)
        A = softmax_of_kept(S, kept, is_row if COLUMNS else None).to(z_v.dtype)
        if COLUMNS:
            store_column_sums(column_partial_ptr, A, e, tile, tl.cdiv(L_v, BLOCK_V), L_t, 16)

        gathered = tl.dot(tl.trans(A), z_v, gathered, input_precision="ieee")

        X = tl.dot(A, z_l, input_precision="ieee") + z_v.to(tl.float32)
        mean = tl.sum(X, axis=1) / C
        X = X - mean[:, None]
        if C % BLOCK_C != 0:
            X = tl.where(is_channel[None, :], X, 0.0)
        rstd = 1.0 / tl.sqrt(tl.sum(X * X, axis=1) / C + eps)
        # Loaded here, not before the loop: held through it they cost dozens of registers.
        weight = tl.load(weight_ptr + channels, mask=is_channel, other=0.0).to(tl.float32)
        bias = tl.load(bias_ptr + channels, mask=is_channel, other=0.0).to(tl.float32)
        f_lav = X * rstd[:, None] * weight[None, :] + bias[None, :]
        tl.store(
            f_lav_ptr + (row_base + start) * C + places_v, f_lav.to(f_lav_ptr.dtype.element_ty), mask=is_z_v
        )
        tl.store(mean_ptr + row_base + start + in_tile, mean, mask=is_row)
        tl.store(rstd_ptr + row_base + start + in_tile, rstd, mask=is_row)

    partial_ptr += (e.to(tl.int64) * tl.num_programs(1) + split) * L_t * C
    tl.store(partial_ptr + places_l, gathered, mask=is_z_l)


@triton.jit(do_not_specialize=SIZES)
def mutual_attention_fwd_chunked_kernel(
    z_v_ptr: tl.tensor,  # [I, L_v, C]
    z_l_ptr: tl.tensor,  # [E, L_t, C]
    weight_ptr: tl.tensor,  # [C]
    bias_ptr: tl.tensor,  # [C]
    word_mask_ptr: tl.tensor,  # [E, L_t], uint8
    expr_offsets_ptr: tl.tensor,  # [I + 1]
    f_lav_ptr: tl.tensor,  # [E, L_v, C]
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
    """As mutual_attention_fwd_kernel, for rows too wide for the registers: walks a tile's C in chunks.

    Three walks: for S, for the variance of X, and for f_lav with Aᵀ Z_v, which this program collects in its
    own slice. The mean needs no walk: it is that of Z_v plus those of the words, weighted by A.
    """
    e = tl.program_id(0)
    split = tl.program_id(1)
    image = image_of_expression(expr_offsets_ptr, e, images) if HAS_GROUPS else e
    z_v_ptr += image.to(tl.int64) * L_v * C
    z_l_ptr += e.to(tl.int64) * L_t * C
    partial_ptr += (e.to(tl.int64) * tl.num_programs(1) + split) * L_t * C
    row_base = e.to(tl.int64) * L_v

    words = tl.arange(0, BLOCK_T)
    is_word = words < L_t
    may_keep = is_word
    if HAS_MASK:
        may_keep = tl.load(word_mask_ptr + e.to(tl.int64) * L_t + words, mask=is_word, other=0) != 0
    in_tile = tl.arange(0, BLOCK_V)
    first = split * tiles_per_split
    end = min(first + tiles_per_split, tl.cdiv(L_v, BLOCK_V))
    for tile in tl.range(first, end, num_stages=1, disable_licm=True):
        start = tl.cast(tile, tl.int64) * BLOCK_V
        is_row = start + in_tile < L_v

        S = tl.zeros((BLOCK_V, BLOCK_T), dtype=tl.float32)
        row_sum = tl.zeros((BLOCK_V,), dtype=tl.float32)
        word_sum = tl.zeros((BLOCK_T,), dtype=tl.float32)
        for chunk in tl.range(0, C, BLOCK_C, disable_licm=True):
            channels = chunk + tl.arange(0, BLOCK_C)
            is_z_v = inside(is_row, channels, C, BLOCK_C)
            is_z_l = inside(is_word, channels, C, BLOCK_C)
            places_v = in_tile[:, None] * C + channels[None, :]
            places_l = words[:, None] * C + channels[None, :]
            z_v = tl.load(z_v_ptr + start * C + places_v, mask=is_z_v, other=0.0)
            z_l = tl.load(z_l_ptr + places_l, mask=is_z_l, other=0.0)
            S = tl.dot(z_v, tl.trans(z_l), S, input_precision="ieee")
            row_sum += tl.sum(z_v.to(tl.float32), axis=1)
            word_sum += tl.sum(z_l.to(tl.float32), axis=1)
        if SCALE != 1.0:
            S *= SCALE
        kept = gate(S, may_keep, threshold, KEEP, FILL)
        store_gate(gate_ptr + (row_base + start) * GATE_WORDS, kept, is_row, GATE_WORDS)
        A = softmax_of_kept(S, kept, is_row if COLUMNS else None).to(z_v_ptr.dtype.element_ty)
        if COLUMNS:
            store_column_sums(column_partial_ptr, A, e, tile, tl.cdiv(L_v, BLOCK_V), L_t, 16)
        mean = (row_sum + tl.sum(A.to(tl.float32) * word_sum[None, :], axis=1)) / C

        squares = tl.zeros((BLOCK_V,), dtype=tl.float32)
        for chunk in tl.range(0, C, BLOCK_C, disable_licm=True):
            channels = chunk + tl.arange(0, BLOCK_C)
            is_z_v = inside(is_row, channels, C, BLOCK_C)
            is_z_l = inside(is_word, channels, C, BLOCK_C)
            places_v = in_tile[:, None] * C + channels[None, :]
            places_l = words[:, None] * C + channels[None, :]
            z_v = tl.load(z_v_ptr + start * C + places_v, mask=is_z_v, other=0.0)
            z_l = tl.load(z_l_ptr + places_l, mask=is_z_l, other=0.0)
            X = tl.dot(A, z_l, input_precision="ieee") + z_v.to(tl.float32) - mean[:, None]
            if C % BLOCK_C != 0:
                X = tl.where(is_z_v, X, 0.0)
            squares += tl.sum(X * X, axis=1)
        rstd = 1.0 / tl.sqrt(squares / C + eps)
        tl.store(mean_ptr + row_base + start + in_tile, mean, mask=is_row)
        tl.store(rstd_ptr + row_base + start + in_tile, rstd, mask=is_row)

        # No prefetch in this loop: it reads back what it stored for the previous tile.
        for chunk in tl.range(0, C, BLOCK_C, num_stages=1, disable_licm=True):
            channels = chunk + tl.arange(0, BLOCK_C)
            is_channel = channels < C
            is_z_v = inside(is_row, channels, C, BLOCK_C)
            is_z_l = inside(is_word, channels, C, BLOCK_C)
            places_v = in_tile[:, None] * C + channels[None, :]
            places_l = words[:, None] * C + channels[None, :]
            z_v = tl.load(z_v_ptr + start * C + places_v, mask=is_z_v, other=0.0)
            z_l = tl.load(z_l_ptr + places_l, mask=is_z_l, other=0.0)
            X = tl.dot(A, z_l, input_precision="ieee") + z_v.to(tl.float32) - mean[:, None]
            weight = tl.load(weight_ptr + channels, mask=is_channel, other=0.0).to(tl.float32)
            bias = tl.load(bias_ptr + channels, mask=is_channel, other=0.0).to(tl.float32)
            f_lav = X * rstd[:, None] * weight[None, :] + bias[None, :]
            f_lav = f_lav.to(f_lav_ptr.dtype.element_ty)
            tl.store(f_lav_ptr + (row_base + start) * C + places_v, f_lav, mask=is_z_v)

            gathered = tl.dot(tl.trans(A), z_v, input_precision="ieee")
            gathered += tl.load(partial_ptr + places_l, mask=where_also(is_z_l, tile > first), other=0.0)
            tl.store(partial_ptr + places_l, gathered, mask=is_z_l)
        # What one thread stored, another may read back in the next iteration.
        tl.debug_barrier()


@triton.jit(do_not_specialize=SIZES)
def mutual_attention_fwd_words_kernel(
    z_l_ptr: tl.tensor,  # [E, L_t, C]
    partial_ptr: tl.tensor,  # [E, splits, L_t, C]
    column_partial_ptr: tl.tensor,  # [E, tiles, L_t]
    weight_ptr: tl.tensor,  # [C]
    bias_ptr: tl.tensor,  # [C]
    y_ptr: tl.tensor,  # [E, L_t, C], fp32
    f_val_ptr: tl.tensor,  # [E, L_t, C]
    column_sum_ptr: tl.tensor,  # [E, L_t], fp32, with COLUMNS: the divisor, 1 for an empty column
    L_t: tl.tensor,
    splits: tl.tensor,
    tiles: tl.tensor,
    eps: tl.tensor,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """Grid (E * L_t): Y = Aᵀ Z_v + Z_l of one word, its splits added in order, and its LayerNorm.

    With COLUMNS, Aᵀ Z_v is divided by the sum of A's column.
    """
    row = tl.program_id(0).to(tl.int64)
    e = row // L_t
    word = row % L_t
    channels = tl.arange(0, BLOCK_C)
    is_channel = channels < C
    y = tl.zeros((BLOCK_C,), dtype=tl.float32)
    for split in range(0, splits):
        place = ((e * splits + split) * L_t + word) * C
        y += tl.load(partial_ptr + place + channels, mask=is_channel, other=0.0)
    if COLUMNS:
        column = tl.zeros((TILES,), dtype=tl.float32)
        for start in range(0, tiles, TILES):
            tile = start + tl.arange(0, TILES)
            column += tl.load(
                column_partial_ptr + (e * tiles + tile) * L_t + word, mask=tile < tiles, other=0.0
            )
        total = tl.sum(column, axis=0)
        total = tl.where(total > 0, total, 1.0)
        tl.store(column_sum_ptr + row, total)
        y = y / total
    y += tl.load(z_l_ptr + row * C + channels, mask=is_channel, other=0.0).to(tl.float32)
    tl.store(y_ptr + row * C + channels, y, mask=is_channel)

    centred = tl.where(is_channel, y - tl.sum(y, axis=0) / C, 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=0) / C + eps)
    weight = tl.load(weight_ptr + channels, mask=is_channel, other=0.0).to(tl.float32)
    bias = tl.load(bias_ptr + channels, mask=is_channel, other=0.0).to(tl.float32)
    f_val = centred * rstd * weight + bias
    tl.store(f_val_ptr + row * C + channels, f_val.to(f_val_ptr.dtype.element_ty), mask=is_channel)
