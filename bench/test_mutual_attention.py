"""Mutual-aware attention: forward, backward and both, each implementation that runs here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch

from maris_fast.kernels import mutual_attention

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
DTYPE = torch.bfloat16 if ON_GPU else torch.float32


@dataclass(frozen=True)
class Shape:
    """``images`` with ``expressions`` each."""

    images: int
    expressions: int
    L_v: int
    L_t: int
    C: int


ON_GPU_SHAPES = {
    "training": Shape(32, 1, 4096, 32, 256),
    "training, 4:3": Shape(32, 1, 3072, 32, 256),
    "16 words": Shape(32, 1, 4096, 16, 256),
    "64 words": Shape(32, 1, 4096, 64, 256),
    "77 words": Shape(32, 1, 4096, 77, 256),
    "groups of 4": Shape(8, 4, 4096, 32, 256),
    "groups of 8": Shape(4, 8, 4096, 32, 256),
    "large": Shape(8, 1, 4096, 32, 1024),
    "small": Shape(2, 1, 256, 16, 64),
}
ON_CPU_SHAPES = {"small": Shape(2, 1, 256, 16, 64), "groups of 4": Shape(1, 4, 256, 16, 64)}
SHAPES = ON_GPU_SHAPES if ON_GPU else ON_CPU_SHAPES
# The interpreter proves kernels; its time says nothing about them.
IMPLS: tuple[Literal["reference", "triton"], ...] = ("reference", "triton") if ON_GPU else ("reference",)


@pytest.fixture(scope="module", params=IMPLS)
def proven(request: pytest.FixtureRequest) -> str:
    """An implementation that just gave the right result; no figure for any other."""
    impl: str = request.param
    if impl == "triton":
        from maris_fast.kernels.mutual_attention.parity import Case, parity

        failures = parity(Case(L_v=300, L_t=20, C=256, dtype=DTYPE, counts=(2, 0, 1)), DEVICE).failures()
    else:
        narrow, wide = (
            outputs_and_gradients(*inputs(Shape(2, 2, 64, 7, 64), dtype), impl)
            for dtype in (torch.float32, torch.float64)
        )
        failures = [
            f"tensor {place}: off by {(got.double() - needed).abs().max():.1e}"
            for place, (got, needed) in enumerate(zip(narrow, wide, strict=True))
            if not torch.allclose(got.double(), needed, rtol=1e-4, atol=1e-4)
        ]
    if failures:
        pytest.fail(f"{impl} is wrong here, so it gets no figure: {failures}")
    return impl


def inputs(shape: Shape, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor, list[torch.Tensor]]:
    """Leaves, expr_offsets and upstream gradients; the same numbers in every dtype."""
    generator = torch.Generator().manual_seed(0)
    E = shape.images * shape.expressions

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(size, generator=generator).to(DEVICE, dtype)

    leaves = [normal(shape.images, shape.L_v, shape.C), normal(E, shape.L_t, shape.C) / shape.C**0.5]
    leaves += [1 + 0.1 * normal(shape.C) for _ in range(4)]
    offsets = torch.arange(0, E + 1, shape.expressions, dtype=torch.int32, device=DEVICE)
    gradients = [normal(E, shape.L_v, shape.C), normal(E, shape.L_t, shape.C)]
    return [t.requires_grad_() for t in leaves], offsets, gradients


def forward(leaves: list[torch.Tensor], offsets: torch.Tensor, impl: Any) -> tuple[torch.Tensor, ...]:
    # No gate: a pair on its threshold would tell nothing about the implementation.
    return mutual_attention(*leaves, keep="all", expr_offsets=offsets, impl=impl)


def outputs_and_gradients(
    leaves: list[torch.Tensor], offsets: torch.Tensor, gradients: list[torch.Tensor], impl: Any
) -> list[torch.Tensor]:
    outputs = forward(leaves, offsets, impl)
    return [*outputs, *torch.autograd.grad(outputs, leaves, gradients)]


@pytest.mark.parametrize("part", ["forward", "backward", "both"])
@pytest.mark.parametrize("shape", SHAPES)
def test_mutual_attention(shape: str, part: str, proven: str, measure: Callable[..., None]) -> None:
    size = SHAPES[shape]
    leaves, offsets, gradients = inputs(size, DTYPE)
    E = size.images * size.expressions
    tokens = size.L_v * size.C * DTYPE.itemsize
    # What has to move: Z_v in and f_lav out; then Z_v and G in and dZ_v out.
    must_move = {"forward": (size.images + E) * tokens, "backward": (2 * size.images + E) * tokens}
    must_move["both"] = sum(must_move.values())
    told = {"impl": proven, "part": part, **vars(size), "dtype": str(DTYPE), "must_move": must_move[part]}
    if part == "forward":
        with torch.no_grad():
            measure(lambda: forward(leaves, offsets, proven), **told)
    elif part == "backward":
        outputs = forward(leaves, offsets, proven)
        measure(lambda: torch.autograd.grad(outputs, leaves, gradients, retain_graph=True), **told)
    else:
        measure(lambda: outputs_and_gradients(leaves, offsets, gradients, proven), **told)
