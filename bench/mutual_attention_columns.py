"""The implementations of mutual-aware attention that are timed side by side, and the check each must pass.

| column | what runs |
|---|---|
| eager | the unmodified reference, on inputs of the benchmark's dtype; it computes in fp32 |
| eager-autocast | a straightforward version of the equations, fp32 leaves under autocast to bf16 |
| compiled | the same equations through torch.compile, on inputs of the benchmark's dtype |
| flex-attention | **A Z_l only**: half of the forward, without residual and LayerNorm |
| triton | the fused kernels |

FlexAttention can express f_lav's half: queries Z_v, keys and values Z_l, S unscaled, the gate as a score
modification. It cannot express Aᵀ Z_v: its softmax would run over the visual tokens, but that of eq. 3 runs
over the words. So its figures show the cost of half of the forward, and are not compared.

The inputs keep every relevance away from the threshold, so that no rounding decides a pair and the gate as
trained is part of what is verified and timed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from maris_fast.kernels import mutual_attention
from maris_fast.kernels.mutual_attention.parity import same_dtype_eager
from maris_fast.kernels.mutual_attention.reference import (
    attention_weights,
    gate,
    logit,
    mutual_attention_reference,
    relevance,
    tokens_of_expressions,
)

Part = Literal["forward", "backward", "both"]
Forward = Callable[[list[Tensor]], tuple[Tensor, ...]]

TAU, EPS = 0.5, 1e-5
# More than the rounding of a bf16 sigmoid near 0.5 (2^-9 in the sigmoid is 2^-7 in S).
MARGIN = 0.02
A_Z_L = "A Z_l only"


@dataclass(frozen=True)
class Shape:
    """``images`` with ``expressions`` each."""

    images: int
    expressions: int
    L_v: int
    L_t: int
    C: int

    @property
    def pairs(self) -> int:
        """Pairs of an image and an expression: E."""
        return self.images * self.expressions


@dataclass(frozen=True)
class Column:
    """One implementation: ``leaves`` is the dtype of its inputs, ``arithmetic`` the one that it rounds to."""

    name: str
    leaves: torch.dtype
    arithmetic: torch.dtype
    parts: tuple[Part, ...] = ("forward", "backward", "both")
    computes: str = "f_lav, f_val"


def columns(device: torch.device) -> dict[str, Column]:
    """The columns that are meaningful on ``device``."""
    if device.type == "cuda":
        wide, narrow = torch.float32, torch.bfloat16
        flex = Column("flex-attention", narrow, narrow, computes=A_Z_L)
        fused = [Column("triton", narrow, narrow)]
    else:
        wide, narrow = torch.float32, torch.float32
        # FlexAttention has no backward on a CPU.
        flex = Column("flex-attention", narrow, narrow, ("forward",), A_Z_L)
        # The interpreter can verify kernels, but its timings say nothing about them.
        fused = []
    plain = [
        Column("eager", narrow, narrow),
        Column("eager-autocast", wide, torch.bfloat16),
        Column("compiled", narrow, narrow),
    ]
    return {column.name: column for column in (*plain, flex, *fused)}


def must_move(shape: Shape, part: Part, element_bytes: int) -> int:
    """Bytes: forward Z_v in and f_lav out; backward Z_v and G in and dZ_v out. The words are omitted."""
    tokens = shape.L_v * shape.C * element_bytes
    forward, backward = (shape.images + shape.pairs) * tokens, (2 * shape.images + shape.pairs) * tokens
    return {"forward": forward, "backward": backward, "both": forward + backward}[part]


def equations(leaves: list[Tensor], expressions: int) -> tuple[Tensor, Tensor]:
    """Straightforward version of eqs. 3-5; every image has ``expressions`` expressions."""
    z_v, z_l, ln_v_weight, ln_v_bias, ln_l_weight, ln_l_bias = leaves
    if expressions > 1:
        z_v = z_v.repeat_interleave(expressions, dim=0)
    S = z_v @ z_l.transpose(1, 2)
    kept = torch.sigmoid(S) >= TAU
    A = torch.softmax(S.masked_fill(~kept, -math.inf), dim=2).masked_fill(~kept, 0).to(S.dtype)
    X = A @ z_l + z_v
    Y = A.transpose(1, 2) @ z_v + z_l
    C = z_v.shape[2:]
    f_lav = F.layer_norm(X, C, ln_v_weight.to(X.dtype), ln_v_bias.to(X.dtype), EPS)
    f_val = F.layer_norm(Y, C, ln_l_weight.to(Y.dtype), ln_l_bias.to(Y.dtype), EPS)
    return f_lav, f_val


def a_z_l(z_v: Tensor, z_l: Tensor, values: Tensor, expressions: int) -> Tensor:
    """A Z_l by FlexAttention, with ``values`` equal to ``z_l``: softmax over the words that pass the gate."""
    from torch.nn.attention.flex_attention import flex_attention

    def gated(score: Tensor, *place: Tensor) -> Tensor:
        return torch.where(score >= logit(TAU), score, -math.inf)

    if expressions > 1:
        z_v = z_v.repeat_interleave(expressions, dim=0)
    out = flex_attention(z_v[:, None], z_l[:, None], values[:, None], score_mod=gated, scale=1.0)
    assert isinstance(out, Tensor)
    return out[:, 0]


def build(column: Column, shape: Shape, offsets: Tensor) -> Forward:
    """The column's forward over a list of leaves, ready to be compiled at its first run."""
    if column.name in ("eager", "triton"):
        impl: Any = "triton" if column.name == "triton" else "reference"
        return lambda leaves: mutual_attention(
            *leaves, tau=TAU, keep="relevant", expr_offsets=offsets, eps=EPS, impl=impl
        )
    if column.name == "eager-autocast":

        def under_autocast(leaves: list[Tensor]) -> tuple[Tensor, ...]:
            with torch.autocast(offsets.device.type, dtype=torch.bfloat16):
                return equations(leaves, shape.expressions)

        return under_autocast
    # Reset for every shape and part: one variant each, so that none hits the recompile limit.
    torch.compiler.reset()
    whole = partial(torch.compile, fullgraph=True, dynamic=False)
    if column.name == "compiled":
        compiled = whole(equations)
        return lambda leaves: compiled(leaves, shape.expressions)
    compiled = whole(a_z_l)

    def half(leaves: list[Tensor]) -> tuple[Tensor, ...]:
        z_v, z_l = leaves[:2]
        # On a CPU FlexAttention rejects keys and values that are the same tensor.
        return (compiled(z_v, z_l, z_l.clone() if z_l.device.type == "cpu" else z_l, shape.expressions),)

    return half


def inputs(shape: Shape, device: torch.device, dtype: torch.dtype) -> tuple[list[Tensor], Tensor]:
    """Leaves and expr_offsets: the same numbers in every dtype, exactly representable in bf16."""
    leaves, offsets = _numbers(shape, device)
    return [t.to(dtype, copy=True).requires_grad_() for t in leaves], offsets


def gradients(outputs: Sequence[Tensor]) -> list[Tensor]:
    """The upstream gradient of each output: the same numbers in every dtype."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(t.shape, generator=generator).bfloat16().to(t) for t in outputs]


@lru_cache(maxsize=1)
def _numbers(shape: Shape, device: torch.device) -> tuple[list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    def held(tensor: Tensor) -> Tensor:
        return tensor.bfloat16().float().to(device)

    z_l = held(normal(shape.pairs, shape.L_t, shape.C) / shape.C**0.5)
    parameters = [held(offset + 0.1 * normal(shape.C)) for offset in (1, 0, 1, 0)]
    z_v = held(normal(shape.images, shape.L_v, shape.C))
    words = z_l.view(shape.images, -1, shape.C).transpose(1, 2).double()
    while True:
        near = ((z_v.double() @ words - logit(TAU)).abs() < MARGIN).any(dim=2)
        if not near.any():
            break
        z_v[near] = held(normal(int(near.sum()), shape.C))
    offsets = torch.arange(0, shape.pairs + 1, shape.expressions, dtype=torch.int32, device=device)
    return [z_v, z_l, *parameters], offsets


def differentiated(
    forward: Forward, leaves: list[Tensor], above: Sequence[Tensor] | None = None
) -> list[Tensor]:
    """Outputs, and the gradients of the leaves that they depend on.

    ``above`` is the upstream gradient of each output. If omitted, ``gradients`` draws it, which takes longer
    than the operation itself, so pass it when timing.
    """
    outputs = forward(leaves)
    above = gradients(outputs) if above is None else above
    return [*outputs, *torch.autograd.grad(outputs, used(leaves, outputs), above)]


def used(leaves: list[Tensor], outputs: tuple[Tensor, ...]) -> list[Tensor]:
    """The leaves that the outputs depend on: A Z_l has no LayerNorm."""
    return leaves[:2] if len(outputs) == 1 else leaves


def failures(got: Sequence[Tensor], column: Column, shape: Shape, device: torch.device) -> list[str]:
    """What is wrong with outputs (and gradients) on the very inputs that are timed; empty if all is well.

    Allowed is twice the error of plain PyTorch in the column's arithmetic plus its rounding, against fp64.
    """
    found = []
    limits = _limits(shape, device, column.arithmetic, column.computes)
    for place, (own, (needed, allowed)) in enumerate(zip(got, limits, strict=False)):
        off = (own.double() - needed).abs().max().item()
        if not off <= allowed:
            found.append(f"tensor {place} is off by {off:.1e}, allowed {allowed:.1e}")
    return found


@lru_cache(maxsize=1)
def _limits(
    shape: Shape, device: torch.device, arithmetic: torch.dtype, computes: str
) -> list[tuple[Tensor, float]]:
    """Each output and gradient in fp64, and how far a correct result may be from it."""
    wide, offsets = inputs(shape, device, torch.float64)
    kept = gate(relevance(tokens_of_expressions(wide[0], offsets), wide[1]), TAU, "relevant", None).detach()

    def truly(leaves: list[Tensor]) -> tuple[Tensor, ...]:
        if computes == A_Z_L:
            return _only_a_z_l(leaves, kept, offsets)
        return mutual_attention_reference(
            *leaves, tau=TAU, keep="relevant", word_mask=None, expr_offsets=offsets, eps=EPS, kept=kept
        )

    def plainly(leaves: list[Tensor]) -> tuple[Tensor, ...]:
        if computes == A_Z_L:
            return _only_a_z_l(leaves, kept, offsets)
        return same_dtype_eager(leaves, kept, offsets, EPS)

    with torch.enable_grad():
        truth = [t.detach() for t in differentiated(truly, wide)]
        plain = differentiated(plainly, inputs(shape, device, arithmetic)[0])
    rounding = torch.finfo(arithmetic).eps
    allowed = [
        2 * ((got.double() - needed).abs().max().item() + rounding * needed.abs().max().item())
        for got, needed in zip(plain, truth, strict=True)
    ]
    return list(zip(truth, allowed, strict=True))


def _only_a_z_l(leaves: list[Tensor], kept: Tensor, offsets: Tensor) -> tuple[Tensor]:
    z_v, z_l = tokens_of_expressions(leaves[0], offsets), leaves[1]
    return (attention_weights(relevance(z_v, z_l), kept).to(z_l.dtype) @ z_l,)
