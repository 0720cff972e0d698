"""Multi-head attention at the mask decoder's shapes: each implementation that runs here."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch

from maris_fast.kernels import multihead_attention
from maris_fast.kernels.multihead_attention import IMPLEMENTATIONS, why_unsupported
from maris_fast.kernels.multihead_attention.parity import Shape, draw, failures, provable

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
# Eq. 6 over the visual tokens, eq. 8 from them to the words.
SHAPES = (
    {
        "self, 32": Shape(8, 4096, 4096, 8, 32, masked=False),
        "self, 64": Shape(8, 4096, 4096, 4, 64, masked=False),
        "self, 128": Shape(8, 4096, 4096, 2, 128, masked=False),
        "to words, 32": Shape(32, 4096, 33, 8, 32, masked=True),
        "to words, 64": Shape(32, 4096, 33, 4, 64, masked=True),
        "to words, 128": Shape(32, 4096, 33, 2, 128, masked=True),
    }
    if ON_GPU
    else {
        "self, 32": Shape(1, 256, 256, 4, 32, masked=False),
        "to words, 32": Shape(2, 256, 17, 4, 32, masked=True),
    }
)


@cache
def wrong(impl: Any, shape: Shape) -> list[str]:
    """What is wrong with an implementation at these lengths."""
    return failures(impl, shape, DEVICE, DTYPE)


@pytest.mark.parametrize("part", ["forward", "backward", "both"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_multihead_attention(impl: Any, shape: str, part: str, measure_part: Callable[..., None]) -> None:
    size = SHAPES[shape]
    reason = why_unsupported(impl, DEVICE, DTYPE, size.head_dim, size.masked)
    if reason is not None:
        pytest.skip(reason)
    failed = wrong(impl, provable(size))
    if failed:
        pytest.fail(f"{impl} gives wrong results here, so it is not timed: {failed}")
    drawn = draw(size, DEVICE, DTYPE)
    q, k, v = drawn.leaves

    def forward() -> torch.Tensor:
        return multihead_attention(q, k, v, drawn.key_mask, impl)

    told = {"impl": impl, "dtype": str(DTYPE), **vars(size)}
    measure_part(part, forward, (q, k, v), drawn.gradient, **told)
