"""Cross-attention at the mask decoder's shapes, projections included: each order of its products."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache, partial
from typing import Any

import pytest
import torch

from maris_fast.kernels import UnsupportedError, cross_attention
from maris_fast.kernels.cross_attention import IMPLEMENTATIONS
from maris_fast.kernels.cross_attention.parity import Case, draw, failures

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
DTYPE = torch.bfloat16 if ON_GPU else torch.float32
# Eq. 8: from the pixels of 4:3 images to the query token and ten words, or the maximum number of words.
SHAPES = (
    {
        "8 heads, 11 keys": Case(56, 3072, 11, 8, 32, 256, dtype=DTYPE),
        "2 heads, 11 keys": Case(56, 3072, 11, 2, 128, 256, dtype=DTYPE),
        "8 heads, 33 keys": Case(56, 3072, 33, 8, 32, 256, dtype=DTYPE),
    }
    if ON_GPU
    else {
        "8 heads, 5 keys": Case(56, 192, 5, 8, 8, 64),
        "2 heads, 5 keys": Case(56, 192, 5, 2, 32, 64),
        "8 heads, 17 keys": Case(56, 192, 17, 8, 8, 64),
    }
)


@cache
def wrong(impl: Any, case: Case) -> list[str]:
    """What is wrong with an implementation at these lengths."""
    return failures(impl, case, DEVICE)


@pytest.mark.parametrize("part", ["forward", "backward", "both"])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_cross_attention(impl: Any, shape: str, part: str, measure_part: Callable[..., None]) -> None:
    case = SHAPES[shape]
    try:
        failed = wrong(impl, replace(case, E=2))
    except UnsupportedError as error:
        pytest.skip(str(error))
    if failed:
        pytest.fail(f"{impl} gives wrong results here, so it is not timed: {failed}")
    drawn = draw(case, DEVICE)
    inputs = list(drawn.leaves.values())
    operation: Callable[..., torch.Tensor] = partial(cross_attention, impl=impl)

    def forward() -> torch.Tensor:
        return operation(*inputs, key_mask=drawn.key_mask)

    # Forward: x and out; backward: their gradients and x again. Words are negligible.
    tensors = {"forward": 2, "backward": 3, "both": 5}[part]
    told = {"must_move": tensors * drawn.leaves["x"].nbytes, "impl": impl, **vars(case)}
    measure_part(part, forward, inputs, drawn.gradient, **(told | {"dtype": str(DTYPE)}))
