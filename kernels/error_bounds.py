"""Bounds on a result's error against fp64, in proportion to that of plain PyTorch in the same dtype.

There are two checks. The norm of the whole error is steady from case to case, so little more than that of
plain PyTorch is allowed, and a fault that changes every number by a percent is noticed in bf16. The largest
error varies more and reveals a fault in a few numbers, which the norm of a large tensor hides.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

NORM_FACTOR = 1.5
# Kernels compute the exponential as exp2 of a product rounded in fp32, and add in a different order.
NORM_FLOOR = 4 * torch.finfo(torch.float32).eps


def errors_and_bounds(
    got: Mapping[str, Tensor],
    plain: Mapping[str, Tensor],
    truth: Mapping[str, Tensor],
    dtype: torch.dtype,
    largest_factor: float,
    norm_factor: float = NORM_FACTOR,
) -> dict[str, tuple[float, float]]:
    """Each result's two (error, allowed error) pairs: for the relative norm, and for the largest error.

    Args:
        got, plain: results of the implementation and of plain PyTorch in ``dtype``, the dtype of the inputs.
        truth: the same in fp64.
        largest_factor: allowed multiple of (plain's largest error + one rounding of the largest value).
        norm_factor: allowed multiple of the norm of plain's error, to which NORM_FLOOR is added.
    """
    bounds = {}
    for name, needed in truth.items():
        error, plainly = got[name].double() - needed, plain[name].double() - needed
        norm = max(needed.norm().item(), torch.finfo(torch.float32).tiny)
        allowed = norm_factor * plainly.norm().item() / norm + NORM_FLOOR
        bounds[f"{name}, of its norm"] = (error.norm().item() / norm, allowed)
        rounding = torch.finfo(dtype).eps * _largest(needed)
        bounds[name] = (_largest(error), largest_factor * (_largest(plainly) + rounding))
    return bounds


def exceeded(errors: Mapping[str, tuple[float, float]]) -> list[str]:
    """A message for each error that is out of bounds. NaN is out of bounds."""
    return [
        f"{name}: error {error:.2e}, allowed {allowed:.2e}"
        for name, (error, allowed) in errors.items()
        if not error <= allowed
    ]


def _largest(values: Tensor) -> float:
    return values.abs().max().item()
