"""Multi-head attention at the mask decoder's shapes: each implementation that runs here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from maris_fast.kernels import multihead_attention

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
IMPLS = ("xformers", "sdpa", "reference") if ON_GPU else ("sdpa", "reference")
# B, L_q, L_k, heads, head dim, masked: eq. 6 over the visual tokens, eq. 8 from them to the words.
SHAPES: dict[str, tuple[int, int, int, int, int, bool]] = (
    {
        "self, 32": (8, 4096, 4096, 8, 32, False),
        "self, 64": (8, 4096, 4096, 4, 64, False),
        "self, 128": (8, 4096, 4096, 2, 128, False),
        "to words, 32": (32, 4096, 33, 8, 32, True),
    }
    if ON_GPU
    else {"self, 32": (1, 256, 256, 4, 32, False), "to words, 32": (2, 256, 17, 4, 32, True)}
)


def inputs(shape: str, dtype: torch.dtype) -> tuple[list[torch.Tensor], torch.Tensor | None, torch.Tensor]:
    """q, k, v, the key mask and the upstream gradient; the same numbers in every dtype."""
    B, L_q, L_k, heads, d, masked = SHAPES[shape]
    generator = torch.Generator().manual_seed(0)

    def normal(length: int) -> torch.Tensor:
        return torch.randn(B, length, heads, d, generator=generator).to(DEVICE, dtype)

    mask = None
    if masked:
        mask = (torch.arange(L_k) < torch.linspace(L_k // 2, L_k, B).round()[:, None]).to(DEVICE)
    return [normal(length).requires_grad_() for length in (L_q, L_k, L_k)], mask, normal(L_q)


@pytest.fixture(scope="module", params=IMPLS)
def proven(request: pytest.FixtureRequest) -> str:
    """An implementation that just gave the reference's result; no figure for any other."""
    impl: Any = request.param
    (q, k, v), mask, gradient = inputs("to words, 32", DTYPE)
    results = []
    for name in (impl, "reference"):
        out = multihead_attention(q, k, v, mask, name)
        results.append([out, *torch.autograd.grad(out, (q, k, v), gradient)])
    limit = 20 * torch.finfo(DTYPE).eps
    for got, needed in zip(*results, strict=True):
        if not (got - needed).abs().max() <= limit * needed.abs().max():
            pytest.fail(f"{impl} is wrong here, so it gets no figure")
    return str(impl)


@pytest.mark.parametrize("part", ["forward", "backward", "both"])
@pytest.mark.parametrize("shape", SHAPES)
def test_multihead_attention(shape: str, part: str, proven: Any, measure: Callable[..., None]) -> None:
    (q, k, v), mask, gradient = inputs(shape, DTYPE)
    names = ("B", "L_q", "L_k", "heads", "head_dim", "masked")
    told = {"impl": proven, "part": part, "dtype": str(DTYPE)}
    told |= dict(zip(names, SHAPES[shape], strict=True))

    def forward() -> torch.Tensor:
        return multihead_attention(q, k, v, mask, proven)

    if part == "forward":
        with torch.no_grad():
            measure(forward, **told)
    elif part == "backward":
        out = forward()
        measure(lambda: torch.autograd.grad(out, (q, k, v), gradient, retain_graph=True), **told)
    else:
        measure(lambda: torch.autograd.grad(forward(), (q, k, v), gradient), **told)
