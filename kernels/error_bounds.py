"""How far a result may be from fp64: in proportion to how far plain PyTorch in the same dtype is."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def error_and_bound(
    got: Tensor, plain: Tensor, truth: Tensor, dtype: torch.dtype, factor: float
) -> tuple[float, float]:
    """The largest error; allowed is ``factor`` times plain's and one rounding of the largest value."""
    rounding = torch.finfo(dtype).eps * truth.abs().max().item()
    return _distance(got, truth), factor * (_distance(plain, truth) + rounding)


def exceeded(errors: Mapping[str, tuple[float, float]]) -> list[str]:
    """What is out of bounds, in words; empty when all is well. NaN is out of bounds."""
    return [
        f"{name}: error {error:.2e}, allowed {allowed:.2e}"
        for name, (error, allowed) in errors.items()
        if not error <= allowed
    ]


def _distance(got: Tensor, truth: Tensor) -> float:
    return (got.double() - truth).abs().max().item()
