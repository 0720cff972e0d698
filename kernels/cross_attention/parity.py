"""Parity of an implementation: one case, run by it and by the equation in fp64, forward and backward."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from maris_fast.kernels.cross_attention.implementations import IMPLEMENTATIONS, Named
from maris_fast.kernels.error_bounds import errors_and_bounds, exceeded
from maris_fast.kernels.poisoned_memory import poisoned_memory

LARGEST_FACTOR = 2
# Folding rounds other numbers than the order as written: for 16 biases, a factor of 1.65 was seen in bf16.
NORM_FACTOR = 2


@dataclass(frozen=True)
class Case:
    """Inputs to draw; with ``masked``, rows attend to between one key and all of them."""

    E: int = 3
    L_q: int = 20
    L_k: int = 5
    heads: int = 2
    d: int = 4
    C: int = 12
    masked: bool = True
    dtype: torch.dtype = torch.float32
    seed: int = 0


@dataclass(frozen=True)
class Inputs:
    """The operation's tensors by name, the key mask, and the gradient of the output."""

    leaves: dict[str, Tensor]
    key_mask: Tensor | None
    gradient: Tensor


def draw(case: Case, device: torch.device | None = None) -> Inputs:
    """The inputs for a case: always the same ones, of about unit variance throughout."""
    generator = torch.Generator().manual_seed(case.seed)
    inner = case.heads * case.d

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        return drawn.to(device, case.dtype)

    leaves = {
        "x": normal(case.E, case.L_q, case.C),
        "k": normal(case.E, case.L_k, case.heads, case.d),
        "v": normal(case.E, case.L_k, case.heads, case.d),
        "W_q": normal(inner, case.C, scale=case.C**-0.5),
        "b_q": normal(inner),
        "W_o": normal(case.C, inner, scale=inner**-0.5),
        "b_o": normal(case.C),
    }
    key_mask = None
    if case.masked:
        counting = torch.linspace(1, case.L_k, case.E).round()
        key_mask = (torch.arange(case.L_k) < counting[:, None]).to(device)
    gradient = normal(case.E, case.L_q, case.C)
    return Inputs({name: leaf.requires_grad_() for name, leaf in leaves.items()}, key_mask, gradient)


def run(impl: Named, drawn: Inputs) -> dict[str, Tensor]:
    """Output and gradients, by name. In "projected", attention in the middle is the reference."""
    inner = {"attention_impl": "reference"} if impl == "projected" else {}
    out = IMPLEMENTATIONS[impl](**drawn.leaves, key_mask=drawn.key_mask, **inner)
    gradients = torch.autograd.grad(out, list(drawn.leaves.values()), drawn.gradient)
    return {"out": out, **dict(zip((f"d {name}" for name in drawn.leaves), gradients, strict=True))}


def failures(impl: Named, case: Case, device: torch.device | None = None) -> list[str]:
    """A message for each error that is out of bounds. NaN is out of bounds.

    The allowed error is in proportion to that of the order as written, in plain PyTorch in the same dtype.
    The implementation runs on memory that is NaN where nothing was written.
    """
    drawn = draw(case, device)
    wide = Inputs(
        {name: leaf.detach().double().requires_grad_() for name, leaf in drawn.leaves.items()},
        drawn.key_mask,
        drawn.gradient.double(),
    )
    truth, plain = run("projected", wide), run("projected", drawn)
    with poisoned_memory():
        own = run(impl, drawn)
    wrong = [
        f"{name}: {got.dtype}, needed {case.dtype}" for name, got in own.items() if got.dtype != case.dtype
    ]
    return wrong + exceeded(errors_and_bounds(own, plain, truth, case.dtype, LARGEST_FACTOR, NORM_FACTOR))
