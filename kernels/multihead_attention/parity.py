"""Parity of an implementation: one case, run by it and by the reference in fp64, forward and backward."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maris_fast.kernels.error_bounds import errors_and_bounds, exceeded
from maris_fast.kernels.multihead_attention.implementations import IMPLEMENTATIONS, Named

# Kernels approximate the exponential. PyTorch's own on a CPU needs 2.9 at most, in fp32, over 864 cases.
LARGEST_FACTOR = 4
NAMES = ("out", "d q", "d k", "d v")


@dataclass(frozen=True)
class Shape:
    """Sizes of one call; with ``masked``, rows attend to between one key and all of them."""

    B: int
    L_q: int
    L_k: int
    heads: int
    head_dim: int
    masked: bool


def provable(shape: Shape) -> Shape:
    """All lengths, but few rows and heads: the reference in fp64 stores L_q L_k numbers per head."""
    return replace(shape, B=min(shape.B, 2), heads=min(shape.heads, 2))


@dataclass(frozen=True)
class Inputs:
    """q, k, v, the key mask, and the gradient of the output."""

    leaves: list[Tensor]
    key_mask: Tensor | None
    gradient: Tensor


def draw(shape: Shape, device: torch.device, dtype: torch.dtype) -> Inputs:
    """The inputs for a shape: always the same ones, whatever the dtype."""
    generator = torch.Generator().manual_seed(0)

    def normal(length: int) -> Tensor:
        size = (shape.B, length, shape.heads, shape.head_dim)
        return torch.randn(size, generator=generator).to(device, dtype)

    key_mask = None
    if shape.masked:
        counting = torch.linspace(shape.L_k, 1, shape.B).round()
        key_mask = (torch.arange(shape.L_k) < counting[:, None]).to(device)
    leaves = [normal(length).requires_grad_() for length in (shape.L_q, shape.L_k, shape.L_k)]
    return Inputs(leaves, key_mask, normal(shape.L_q))


def run(impl: Named, drawn: Inputs) -> list[Tensor]:
    """Output and gradients."""
    q, k, v = drawn.leaves
    out = IMPLEMENTATIONS[impl](q, k, v, drawn.key_mask)
    return [out, *torch.autograd.grad(out, drawn.leaves, drawn.gradient)]


def same_dtype_eager(drawn: Inputs) -> list[Tensor]:
    """Output and gradients in plain PyTorch, each product rounded to the inputs' dtype.

    The backward computes rowsum(A ∘ dA) as rowsum(dO ∘ O), as all that never store A do. With few keys, the
    two cancel less well: with one key, dS should be 0, but is a rounding error.
    """
    q, k, v = (leaf.detach() for leaf in drawn.leaves)
    dO, scale = drawn.gradient, 1 / math.sqrt(q.shape[3])
    S = torch.einsum("bqhd,bkhd->bhqk", q, k).float() * scale
    if drawn.key_mask is not None:
        S = S.masked_fill(~drawn.key_mask[:, None, None, :], -math.inf)
    A = S.softmax(dim=3)
    out = torch.einsum("bhqk,bkhd->bqhd", A.to(q.dtype), v)
    dA = torch.einsum("bqhd,bkhd->bhqk", dO, v).float()
    D = (dO.float() * out.float()).sum(3).transpose(1, 2)[..., None]
    dS = (A * (dA - D) * scale).to(q.dtype)
    return [
        out,
        torch.einsum("bhqk,bkhd->bqhd", dS, k),
        torch.einsum("bhqk,bqhd->bkhd", dS, q),
        torch.einsum("bhqk,bqhd->bkhd", A.to(q.dtype), dO),
    ]


def failures(impl: Named, shape: Shape, device: torch.device, dtype: torch.dtype) -> list[str]:
    """A message for each error that is out of bounds. NaN is out of bounds.

    The allowed error is in proportion to that of ``same_dtype_eager``.
    """
    drawn = draw(shape, device, dtype)
    wide = Inputs(
        [leaf.detach().double().requires_grad_() for leaf in drawn.leaves],
        drawn.key_mask,
        drawn.gradient.double(),
    )
    truth, own = run("reference", wide), run(impl, drawn)
    plain = same_dtype_eager(drawn)
    got, plainly, needed = (dict(zip(NAMES, t, strict=True)) for t in (own, plain, truth))
    return exceeded(errors_and_bounds(got, plainly, needed, dtype, LARGEST_FACTOR))
