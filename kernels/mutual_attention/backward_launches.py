"""The launches of the backward: words, their Gram matrix, a walk over the visual tokens, words again."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from maris_fast.kernels.mutual_attention.backward import (
    mutual_attention_bwd_finish_kernel,
    mutual_attention_bwd_gram_kernel,
    mutual_attention_bwd_kernel,
    mutual_attention_bwd_words_kernel,
)
from maris_fast.kernels.mutual_attention.backward_hopper import (
    mutual_attention_bwd_hopper_kernel,
    mutual_attention_bwd_sum_kernel,
)
from maris_fast.kernels.mutual_attention.blocks import PARTS_BY_TMA, WORDS_BY_TMA, Blocks, split_evenly
from maris_fast.kernels.mutual_attention.launching import (
    SUM_BLOCK,
    WORDS_ROWS,
    aligned,
    empty_fp32,
    gram_beside,
    over_expressions,
    over_rows_of_words,
    over_words,
    tiles_by_tma,
)
from maris_fast.kernels.triton_here import FP_FUSION


def backward_of_words(
    grad_f_val: Tensor,
    y: Tensor,
    z_l: Tensor,
    column_sum: Tensor,
    ln_l_weight: Tensor,
    eps: float,
    columns: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dY / c [E, L_t, C], what ``columns`` adds to dA [E, L_t], and partial sums of f_val's LayerNorm."""
    E, L_t, C = z_l.shape
    dy, shift = empty_fp32(z_l, E, L_t, C), empty_fp32(z_l, E, L_t)
    programs = triton.cdiv(E * L_t, WORDS_ROWS)
    dw_l, db_l = empty_fp32(z_l, programs, C), empty_fp32(z_l, programs, C)
    mutual_attention_bwd_words_kernel[(programs,)](
        aligned(grad_f_val),
        y,
        z_l,
        column_sum,
        aligned(ln_l_weight),
        dy,
        shift,
        dw_l,
        db_l,
        E * L_t,
        eps,
        **over_rows_of_words(C, columns).options,
    )
    return dy, shift, dw_l, db_l


def gram_of_words(z_l: Tensor, unused: Tensor, sizes: Blocks) -> tuple[Tensor, Tensor]:
    """Z_l Z_lᵀ and the sums of Z_l's rows, for 16-bit inputs; else ``unused``, which no kernel reads."""
    if z_l.element_size() != 2:
        return unused, unused
    E, L_t, C = z_l.shape
    build = gram_beside(sizes, C)
    word_block = build.constants["BLOCK_T"]
    gram, word_sum = empty_fp32(z_l, E, word_block, word_block), empty_fp32(z_l, E, word_block)
    mutual_attention_bwd_gram_kernel[(E,)](z_l, gram, word_sum, L_t, **build.options)
    return gram, word_sum


class WalkInputs(NamedTuple):
    """What a walk over the visual tokens reads, in the order of the kernels' arguments."""

    grad_f_lav: Tensor
    z_v: Tensor
    z_l: Tensor
    ln_v_weight: Tensor
    expr_offsets: Tensor | None
    mean: Tensor
    rstd: Tensor
    gate: Tensor
    dy: Tensor
    shift: Tensor
    gram: Tensor
    word_sum: Tensor


def walk_in_chunks(
    inputs: WalkInputs, sizes: Blocks, columns: bool, factor: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dz_v, partial dz_l [E, splits, L_t, C], partial sums of f_lav's LayerNorm; a program walks an image."""
    grad_f_lav, z_v, z_l, ln_v_weight, expr_offsets, *saved_and_words = inputs
    E, L_t, C = z_l.shape
    images, L_v, _ = z_v.shape
    walk = sizes.backward
    tiles_per_split, splits = split_evenly(triton.cdiv(L_v, walk.rows), images, walk.programs)
    dz_v, dz_l_partial = torch.empty_like(z_v), empty_fp32(z_l, E, splits, L_t, C)
    dw_v, db_v = empty_fp32(z_l, images * splits, C), empty_fp32(z_l, images * splits, C)
    dz_v_sum = inputs.dy if expr_offsets is None else empty_fp32(z_l, images, splits, walk.rows, C)
    mutual_attention_bwd_kernel[(images, splits)](
        aligned(grad_f_lav),
        z_v,
        z_l,
        aligned(ln_v_weight),
        z_l if expr_offsets is None else expr_offsets.contiguous(),
        *saved_and_words,
        dz_v,
        dz_v_sum,
        dz_l_partial,
        dw_v,
        db_v,
        L_v,
        L_t,
        tiles_per_split,
        C=C,
        GATE_WORDS=inputs.gate.shape[2],
        COLUMNS=columns,
        SCALE=factor,
        HAS_GROUPS=expr_offsets is not None,
        HAS_GRAM=inputs.gram is not inputs.dy,
        BLOCK_V=walk.rows,
        BLOCK_T=sizes.words,
        CHUNK=walk.chunk,
        STAGES=walk.stages,
        num_warps=walk.warps,
        num_stages=1,
        enable_fp_fusion=FP_FUSION,
    )
    return dz_v, dz_l_partial, dw_v, db_v


def walk_by_tma(
    inputs: WalkInputs, sizes: Blocks, columns: bool, factor: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The same on Hopper, for up to 32 words: a program walks an expression, images are summed after it."""
    grad_f_lav, z_v, z_l, ln_v_weight, expr_offsets, *saved_and_words = inputs
    E, L_t, C = z_l.shape
    images, L_v, _ = z_v.shape
    walk, block_c = sizes.backward, triton.next_power_of_2(C)
    tiles_per_split, splits = split_evenly(triton.cdiv(L_v, walk.rows), E, walk.programs)
    dz_v, dz_l_partial = torch.empty_like(z_v), empty_fp32(z_l, E, splits, L_t, C)
    dw_v, db_v = torch.zeros(2, E * splits, C, dtype=torch.float32, device=z_v.device)
    grad = aligned(grad_f_lav)
    of_expressions = dz_v if expr_offsets is None else torch.empty_like(grad)
    offsets = z_l if expr_offsets is None else expr_offsets.contiguous()
    mutual_attention_bwd_hopper_kernel[(E, splits)](
        tiles_by_tma(grad, walk.rows, block_c // PARTS_BY_TMA),
        tiles_by_tma(z_v, walk.rows, block_c // PARTS_BY_TMA),
        grad,
        z_v,
        z_l,
        aligned(ln_v_weight),
        offsets,
        *saved_and_words,
        of_expressions,
        dz_l_partial,
        dw_v,
        db_v,
        images,
        L_v,
        L_t,
        tiles_per_split,
        C=C,
        COLUMNS=columns,
        SCALE=factor,
        HAS_GROUPS=expr_offsets is not None,
        BLOCK_V=walk.rows,
        BLOCK_T=WORDS_BY_TMA,
        BLOCK_C=block_c,
        PARTS=PARTS_BY_TMA,
        num_warps=walk.warps,
        num_stages=walk.stages,
        enable_fp_fusion=FP_FUSION,
    )
    if expr_offsets is not None:
        mutual_attention_bwd_sum_kernel[(images, triton.cdiv(L_v * C, SUM_BLOCK))](
            of_expressions,
            offsets,
            dz_v,
            L_v,
            **over_expressions(C).options,
        )
    return dz_v, dz_l_partial, dw_v, db_v


def finish_words(dy: Tensor, dz_l_partial: Tensor, column_sum: Tensor, z_l: Tensor, columns: bool) -> Tensor:
    """dz_l [E, L_t, C]: dY and the sum over the splits."""
    E, L_t, C = z_l.shape
    dz_l = torch.empty_like(z_l)
    mutual_attention_bwd_finish_kernel[(E * L_t,)](
        dy,
        dz_l_partial,
        column_sum,
        dz_l,
        L_t,
        dz_l_partial.shape[1],
        **over_words(C, columns).options,
    )
    return dz_l
