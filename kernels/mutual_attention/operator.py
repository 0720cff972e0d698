"""The Triton kernels as one PyTorch operator, with shapes for tracing and a gradient."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
from torch import Tensor

from maris_fast.kernels.errors import UnsupportedError
from maris_fast.kernels.mutual_attention.backward_launches import (
    WalkInputs,
    backward_of_words,
    finish_words,
    gram_of_words,
    walk_by_tma,
    walk_in_chunks,
)
from maris_fast.kernels.mutual_attention.blocks import (
    FP32_WORDS,
    WORDS_BY_TMA,
    Blocks,
    blocks,
    cut_otherwise,
    split_evenly,
    why_unfit,
)
from maris_fast.kernels.mutual_attention.forward import (
    KEEP_ALL,
    KEEP_IRRELEVANT,
    KEEP_RELEVANT,
    mutual_attention_fwd_chunked_kernel,
    mutual_attention_fwd_kernel,
    mutual_attention_fwd_words_kernel,
)
from maris_fast.kernels.mutual_attention.forward_hopper import mutual_attention_fwd_hopper_kernel
from maris_fast.kernels.mutual_attention.launching import aligned, over_words, scale, tiles_by_tma
from maris_fast.kernels.mutual_attention.reference import AS_PRINTED, Keep, Reading, logit
from maris_fast.kernels.operators import operator, with_gradient
from maris_fast.kernels.triton_here import FP_FUSION, limits, why_not_here

KEEPS: dict[Keep, int] = {"relevant": KEEP_RELEVANT, "irrelevant": KEEP_IRRELEVANT, "all": KEEP_ALL}

# A kernel is fixed as interpreted or compiled when its module is imported.
INTERPRETED = not isinstance(mutual_attention_fwd_kernel, triton.JITFunction)


def why_unsupported(device: torch.device, dtype: torch.dtype, L_t: int, C: int) -> str | None:
    """Why the kernels can't take inputs of this device, dtype and size; None when they can."""
    reason = why_not_here(device, dtype, INTERPRETED) or why_unfit(L_t, C)
    if reason is None and not INTERPRETED and dtype == torch.float32 and L_t > FP32_WORDS:
        return (
            f"L_t = {L_t} words in torch.float32, of which the Triton kernels take at most {FP32_WORDS} on a "
            "GPU from Triton 3.8 on; use 16 bits, or impl='reference'"
        )
    return reason


def mutual_attention_triton(
    z_v: Tensor,
    z_l: Tensor,
    ln_v_weight: Tensor,
    ln_v_bias: Tensor,
    ln_l_weight: Tensor,
    ln_l_bias: Tensor,
    *,
    tau: float | Tensor,
    keep: Keep,
    word_mask: Tensor | None,
    expr_offsets: Tensor | None,
    eps: float,
    reading: Reading = AS_PRINTED,
    cut: str = "",
) -> tuple[Tensor, Tensor]:
    """f_lav [E, L_v, C] and f_val [E, L_t, C] of eq. 5; arguments as in ``mutual_attention``.

    ``cut``: block sizes instead of the table's, as ``blocks.cut_otherwise`` reads them.
    """
    f_lav, f_val, *_ = mutual_attention_fwd(
        z_v,
        z_l,
        ln_v_weight,
        ln_v_bias,
        ln_l_weight,
        ln_l_bias,
        word_mask,
        expr_offsets,
        tau if isinstance(tau, Tensor) else torch.tensor(tau, dtype=torch.float64, device="cpu"),
        KEEPS[keep],
        eps,
        *switches(reading),
        cut,
    )
    return f_lav, f_val


def switches(reading: Reading) -> tuple[bool, bool, bool]:
    """The operator's ``columns``, ``fill`` and ``scaled``."""
    return reading.language_norm == "columns", reading.empty_rows == "all", reading.score_scale == "channels"


def unpack_gate(gate: Tensor, L_t: int) -> Tensor:
    """The operator's saved bits [E, L_v, ceil(L_t / 32)] as bool [E, L_v, L_t]."""
    bits = (gate[..., None] >> torch.arange(32, dtype=torch.int32, device=gate.device)) & 1
    return bits.flatten(2)[..., :L_t] != 0


def _empty_outputs(
    z_v: Tensor, z_l: Tensor, *others: Any
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    E, L_t, C = z_l.shape
    columns, *_ = others[-4:]
    L_v = z_v.shape[1]
    return (
        z_v.new_empty(E, L_v, C),
        z_l.new_empty(E, L_t, C),
        z_v.new_empty(E, L_v, dtype=torch.float32),
        z_v.new_empty(E, L_v, dtype=torch.float32),
        z_v.new_empty(E, L_v, (L_t + 31) // 32, dtype=torch.int32),
        z_v.new_empty(E, L_t, C, dtype=torch.float32),
        z_v.new_empty(E, L_t if columns else 0, dtype=torch.float32),
    )


@operator(_empty_outputs)
def mutual_attention_fwd(
    z_v: Tensor,
    z_l: Tensor,
    ln_v_weight: Tensor,
    ln_v_bias: Tensor,
    ln_l_weight: Tensor,
    ln_l_bias: Tensor,
    word_mask: Tensor | None,
    expr_offsets: Tensor | None,
    tau: Tensor,
    keep: int,
    eps: float,
    columns: bool,
    fill: bool,
    scaled: bool,
    cut: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """f_lav, f_val and what the backward needs: mean and 1 / deviation of each row of X, the gate, Y.

    ``columns``, ``fill`` and ``scaled`` are the fields of a ``Reading``. With ``columns``, the last output
    [E, L_t] is the divisor of each word's Aᵀ Z_v, else it is [E, 0]. With ``fill``, the filled gate is saved.
    tau is a tensor [] on the CPU: each new value of a number would recompile the graph.
    """
    E, L_t, C = z_l.shape
    L_v = z_v.shape[1]
    outputs = _empty_outputs(z_v, z_l, columns, fill, scaled, cut)
    if E == 0:
        return outputs
    f_lav, f_val, mean, rstd, gate, y, column_sum = outputs
    # Triton launches on the current device, whatever device the tensors are on.
    with torch.cuda.device_of(z_v):
        z_v, z_l = aligned(z_v), aligned(z_l)
        sizes = _blocks(z_v, L_t, cut, columns)
        walk = sizes.forward
        tiles = triton.cdiv(L_v, walk.rows)
        tiles_per_split, splits = split_evenly(tiles, E, walk.programs)
        shares = z_v.new_empty(E, splits, L_t, C, dtype=torch.float32)
        column_shares = z_v.new_empty(E, tiles, L_t, dtype=torch.float32) if columns else shares
        block_c = walk.chunk or triton.next_power_of_2(C)
        visual: Any = z_v
        f_lav_out: Any = f_lav
        if walk.by_tma:
            kernel = mutual_attention_fwd_hopper_kernel
            visual = tiles_by_tma(z_v, walk.rows, block_c)
            f_lav_out = tiles_by_tma(f_lav, walk.rows, block_c // 4)
        else:
            kernel = mutual_attention_fwd_chunked_kernel if walk.chunk else mutual_attention_fwd_kernel
        kernel[(E, splits)](
            visual,
            z_l,
            aligned(ln_v_weight),
            aligned(ln_v_bias),
            z_l if word_mask is None else word_mask.contiguous().view(torch.uint8),
            z_l if expr_offsets is None else expr_offsets.contiguous(),
            f_lav_out,
            mean,
            rstd,
            gate,
            shares,
            column_shares,
            z_v.shape[0],
            L_v,
            L_t,
            tiles_per_split,
            logit(tau.item()),
            eps,
            C=C,
            GATE_WORDS=gate.shape[2],
            KEEP=keep,
            COLUMNS=columns,
            FILL=fill,
            SCALE=scale(scaled, C),
            HAS_MASK=word_mask is not None,
            HAS_GROUPS=expr_offsets is not None,
            BLOCK_V=walk.rows,
            BLOCK_T=sizes.words,
            BLOCK_C=block_c,
            num_warps=walk.warps,
            num_stages=walk.stages,
            enable_fp_fusion=FP_FUSION,
        )
        mutual_attention_fwd_words_kernel[(E * L_t,)](
            z_l,
            shares,
            column_shares,
            aligned(ln_l_weight),
            aligned(ln_l_bias),
            y,
            f_val,
            column_sum,
            L_t,
            splits,
            tiles,
            eps,
            **over_words(C, columns).options,
        )
    return outputs


def _empty_gradients(
    grad_f_lav: Tensor,
    grad_f_val: Tensor,
    z_v: Tensor,
    z_l: Tensor,
    ln_v_weight: Tensor,
    ln_l_weight: Tensor,
    *_: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    return (
        z_v.new_empty(z_v.shape),
        z_l.new_empty(z_l.shape),
        ln_v_weight.new_empty(ln_v_weight.shape),
        ln_v_weight.new_empty(ln_v_weight.shape),
        ln_l_weight.new_empty(ln_l_weight.shape),
        ln_l_weight.new_empty(ln_l_weight.shape),
    )


@operator(_empty_gradients)
def mutual_attention_bwd(
    grad_f_lav: Tensor,
    grad_f_val: Tensor,
    z_v: Tensor,
    z_l: Tensor,
    ln_v_weight: Tensor,
    ln_l_weight: Tensor,
    expr_offsets: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    gate: Tensor,
    y: Tensor,
    column_sum: Tensor,
    eps: float,
    columns: bool,
    scaled: bool,
    cut: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of z_v, z_l, and of weight and bias of the two LayerNorms, f_lav's first.

    Args:
        grad_f_lav, grad_f_val: of the outputs [E, L_v, C] and [E, L_t, C].
        z_v, z_l, expr_offsets: the operator's inputs, [I, L_v, C], [E, L_t, C] and [I + 1].
        ln_v_weight, ln_l_weight: LayerNorm weights [C].
        mean, rstd, gate, y, column_sum: as saved by the forward; [E, L_v] twice, bits
            [E, L_v, ceil(L_t / 32)], [E, L_t, C], and [E, L_t], or [E, 0] without ``columns``.

    Returns:
        [I, L_v, C], [E, L_t, C], and four of [C].

    Raises:
        UnsupportedError: ``cut`` names block sizes of the backward by TMA, and L_t is above ``WORDS_BY_TMA``.
    """
    E, L_t, C = z_l.shape
    if E == 0:
        nothing = _empty_gradients(grad_f_lav, grad_f_val, z_v, z_l, ln_v_weight, ln_l_weight)
        for gradient in nothing:
            gradient.zero_()
        return nothing
    with torch.cuda.device_of(z_v):
        z_v, z_l = aligned(z_v), aligned(z_l)
        sizes = _blocks(z_v, L_t, cut, columns)
        if sizes.backward.by_tma and L_t > WORDS_BY_TMA:
            raise UnsupportedError(
                f"the backward by TMA ({sizes.backward}) takes up to {WORDS_BY_TMA} words, here are {L_t}; "
                "use one in chunks"
            )
        dy, shift, dw_l, db_l = backward_of_words(grad_f_val, y, z_l, column_sum, ln_l_weight, eps, columns)
        gram, word_sum = gram_of_words(z_l, dy, sizes)
        walk = walk_by_tma if sizes.backward.by_tma else walk_in_chunks
        inputs = WalkInputs(
            grad_f_lav, z_v, z_l, ln_v_weight, expr_offsets, mean, rstd, gate, dy, shift, gram, word_sum
        )
        dz_v, dz_l_partial, dw_v, db_v = walk(inputs, sizes, columns, scale(scaled, C))
        dz_l = finish_words(dy, dz_l_partial, column_sum, z_l, columns)
        return (
            dz_v,
            dz_l,
            dw_v.sum(0).to(ln_v_weight.dtype),
            db_v.sum(0).to(ln_v_weight.dtype),
            dw_l.sum(0).to(ln_l_weight.dtype),
            db_l.sum(0).to(ln_l_weight.dtype),
        )


def _save(ctx: Any, arguments: tuple[Any, ...], outputs: tuple[Tensor, ...]) -> None:
    z_v, z_l, ln_v_weight, _, ln_l_weight, _, _, expr_offsets, _, _, eps, columns, _, scaled, cut = arguments
    _, _, mean, rstd, gate, y, column_sum = outputs
    ctx.mark_non_differentiable(mean, rstd, gate, y, column_sum)
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(z_v, z_l, ln_v_weight, ln_l_weight, expr_offsets, mean, rstd, gate, y, column_sum)
    ctx.settings = (eps, columns, scaled, cut)


def _gradients(ctx: Any, grad_f_lav: Tensor | None, grad_f_val: Tensor | None, *_: None) -> tuple[Any, ...]:
    z_v, z_l, ln_v_weight, ln_l_weight, expr_offsets, mean, rstd, gate, y, column_sum = ctx.saved_tensors
    if grad_f_lav is None:
        grad_f_lav = z_v.new_zeros(mean.shape[0], *z_v.shape[1:])
    if grad_f_val is None:
        grad_f_val = torch.zeros_like(z_l)
    saved = (z_v, z_l, ln_v_weight, ln_l_weight, expr_offsets, mean, rstd, gate, y, column_sum)
    gradients = mutual_attention_bwd(grad_f_lav, grad_f_val, *saved, *ctx.settings)
    return (*gradients, *(None,) * 9)


with_gradient(mutual_attention_fwd, _save, _gradients)


def _blocks(z_v: Tensor, L_t: int, cut: str, divided: bool) -> Blocks:
    return _blocks_of(z_v.device, z_v.element_size(), L_t, z_v.shape[2], cut, divided)


@lru_cache(maxsize=1024)
def _blocks_of(device: torch.device, element_bytes: int, L_t: int, C: int, cut: str, divided: bool) -> Blocks:
    own = blocks(limits(device), element_bytes, L_t, C, divided=divided)
    return cut_otherwise(own, cut) if cut else own
