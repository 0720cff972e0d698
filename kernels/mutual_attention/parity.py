"""Parity of the kernels: one case, run by the kernels and by the reference in fp64, with the same gate.

Near the threshold a rounding error flips a pair, and one flipped pair changes f_lav by about 0.05. So the
gate is compared outside the rounding band, and everything else with the kernels' own gate, excluding
nothing. The allowed error is derived from that of plain PyTorch in the same dtype.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from maris_fast.kernels.error_bounds import errors_and_bounds, exceeded
from maris_fast.kernels.mutual_attention.operator import (
    KEEPS,
    mutual_attention_fwd,
    mutual_attention_triton,
    switches,
    unpack_gate,
)
from maris_fast.kernels.mutual_attention.reference import (
    AS_PRINTED,
    Keep,
    Reading,
    attention_weights,
    gate,
    gathered,
    logit,
    mutual_attention_reference,
    relevance,
    tokens_of_expressions,
)
from maris_fast.kernels.poisoned_memory import poisoned_memory

GATE_BAND = 1e-5
LARGEST_FACTOR = 2
NAMES = (
    "f_lav",
    "f_val",
    "d z_v",
    "d z_l",
    "d ln_v_weight",
    "d ln_v_bias",
    "d ln_l_weight",
    "d ln_l_bias",
)


@dataclass(frozen=True)
class Case:
    """Inputs to draw: ``counts`` has the expressions of each image; None: one each, without offsets.

    Scores S have the standard deviation ``scale``, visual tokens the mean ``shift``.
    """

    L_v: int
    L_t: int
    C: int
    dtype: torch.dtype = torch.float32
    counts: tuple[int, ...] | None = None
    images: int = 1
    keep: Keep = "relevant"
    tau: float = 0.5
    padded: bool = False
    sliced: bool = False
    scale: float = 1.0
    shift: float = 0.0
    seed: int = 0
    reading: Reading = AS_PRINTED


@dataclass(frozen=True)
class Report:
    """The result: how many pairs have a wrong gate, and each tensor's two (error, allowed error) pairs."""

    wrong_pairs: int
    errors: dict[str, tuple[float, float]]

    def failures(self) -> list[str]:
        """A message for each error that is out of bounds. NaN is out of bounds."""
        wrong = [f"{self.wrong_pairs} pairs of the gate"] if self.wrong_pairs else []
        return wrong + exceeded(self.errors)


@dataclass(frozen=True)
class Inputs:
    """The inputs of an operation, and the gradients of its outputs."""

    leaves: list[Tensor]
    word_mask: Tensor | None
    expr_offsets: Tensor | None
    gradients: list[Tensor]


def draw(case: Case, device: torch.device) -> Inputs:
    """The inputs for a case: always the same ones."""
    generator = torch.Generator().manual_seed(case.seed)

    def normal(*shape: int, dtype: torch.dtype = case.dtype) -> Tensor:
        if not case.sliced:
            return torch.randn(shape, generator=generator).to(device, dtype)
        wider = torch.randn(*shape[:-1], shape[-1] + 3, generator=generator).to(device, dtype)
        return wider[..., 1 : shape[-1] + 1]

    images, E = (case.images, case.images) if case.counts is None else (len(case.counts), sum(case.counts))
    z_v, z_l = normal(images, case.L_v, case.C), normal(E, case.L_t, case.C)
    z_v += case.shift
    z_l *= case.scale / math.sqrt(case.C)
    parameters = [normal(case.C, dtype=torch.float32) for _ in range(4)]
    for weight in parameters[::2]:
        weight.mul_(0.3).add_(1)
    word_mask = None
    if case.padded:
        # From no word at all to all of them.
        lengths = torch.linspace(0, case.L_t, E).round()
        word_mask = (torch.arange(case.L_t) < lengths[:, None]).to(device)
    expr_offsets = None
    if case.counts is not None:
        expr_offsets = torch.tensor([0, *case.counts]).cumsum(0).to(device, torch.int32)
    gradients = [normal(E, case.L_v, case.C), normal(E, case.L_t, case.C)]
    return Inputs([z_v, z_l, *parameters], word_mask, expr_offsets, gradients)


def run(
    drawn: Inputs, impl: str, cut: str = "", gradient: bool = True, reading: Reading = AS_PRINTED
) -> list[Tensor]:
    """Outputs of one call as in a step and, with ``gradient``, the gradients of all leaves."""
    leaves = [leaf.detach().requires_grad_(gradient) for leaf in drawn.leaves]
    settings: dict[str, Any] = {"tau": 0.5, "keep": "relevant", "eps": 1e-5, "reading": reading}
    settings |= {"word_mask": drawn.word_mask, "expr_offsets": drawn.expr_offsets}
    if impl == "triton":
        outputs = mutual_attention_triton(*leaves, **settings, cut=cut)
    else:
        outputs = mutual_attention_reference(*leaves, **settings)
    return [*outputs, *(torch.autograd.grad(outputs, leaves, drawn.gradients) if gradient else ())]


def same_dtype_eager(
    leaves: list[Tensor],
    kept: Tensor,
    expr_offsets: Tensor | None,
    eps: float,
    reading: Reading = AS_PRINTED,
) -> tuple[Tensor, Tensor]:
    """The equations in plain PyTorch, each step rounded to the inputs' dtype.

    In fp32, as under autocast: S and its softmax, and the LayerNorms with their parameters.
    """
    z_v, z_l, *parameters = leaves
    ln_v_weight, ln_v_bias, ln_l_weight, ln_l_bias = (t.float() for t in parameters)
    z_v = tokens_of_expressions(z_v, expr_offsets)
    A = attention_weights(relevance(z_v.float(), z_l.float(), reading), kept).to(z_v.dtype)
    X, Y = A @ z_l + z_v, gathered(A, z_v, reading) + z_l
    f_lav = F.layer_norm(X.float(), X.shape[2:], ln_v_weight, ln_v_bias, eps)
    f_val = F.layer_norm(Y.float(), Y.shape[2:], ln_l_weight, ln_l_bias, eps)
    return f_lav.to(z_v.dtype), f_val.to(z_v.dtype)


def parity(case: Case, device: torch.device, eps: float = 1e-5, cut: str = "") -> Report:
    """Run one case, forward and backward, on memory that is NaN where nothing was written.

    ``cut``: block sizes instead of the table's.
    """
    drawn = draw(case, device)
    leaves = [t.detach().requires_grad_() for t in drawn.leaves]
    tau = torch.tensor(case.tau, dtype=torch.float64)
    with poisoned_memory():
        f_lav, f_val, _, _, bits, *_ = mutual_attention_fwd(
            *leaves,
            drawn.word_mask,
            drawn.expr_offsets,
            tau,
            KEEPS[case.keep],
            eps,
            *switches(case.reading),
            cut,
        )
        own = [f_lav, f_val, *torch.autograd.grad([f_lav, f_val], leaves, drawn.gradients)]
    kept = unpack_gate(bits, case.L_t)

    wide = [t.detach().double().requires_grad_() for t in leaves]
    outputs = mutual_attention_reference(
        *wide,
        tau=case.tau,
        keep=case.keep,
        word_mask=drawn.word_mask,
        expr_offsets=drawn.expr_offsets,
        eps=eps,
        reading=case.reading,
        kept=kept,
    )
    truth = [*outputs, *torch.autograd.grad(outputs, wide, [g.double() for g in drawn.gradients])]
    eager = [t.detach().clone().requires_grad_() for t in leaves]
    outputs = same_dtype_eager(eager, kept, drawn.expr_offsets, eps, case.reading)
    plain = [*outputs, *torch.autograd.grad(outputs, eager, drawn.gradients)]

    S = relevance(tokens_of_expressions(wide[0], drawn.expr_offsets), wide[1], case.reading).detach()
    sure = (S - logit(case.tau)).abs() > GATE_BAND * max(1.0, S.std(correction=0).item())
    if drawn.word_mask is not None:
        sure |= ~drawn.word_mask[:, None, :]
    if case.reading.empty_rows == "all":
        # A pair that is not sure decides whether its row is filled, unless another pair is surely kept.
        surely = gate(S, case.tau, case.keep, drawn.word_mask) & sure
        sure &= surely.any(2, keepdim=True) | sure.all(2, keepdim=True)
    wrong = (kept != gate(S, case.tau, case.keep, drawn.word_mask, case.reading)) & sure

    got, plainly, needed = (dict(zip(NAMES, t, strict=True)) for t in (own, plain, truth))
    return Report(int(wrong.sum()), errors_and_bounds(got, plainly, needed, case.dtype, LARGEST_FACTOR))
