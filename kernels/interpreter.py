"""Checks for faults of Triton's interpreter as released, each by one small kernel."""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from triton.runtime.errors import InterpreterError


@triton.jit
def bf16_product_kernel(a_ptr: tl.tensor, out_ptr: tl.tensor) -> None:
    """out = a aᵀ, both bfloat16 [16, 16], summed in fp32 and rounded once."""
    places = tl.arange(0, 16)[:, None] * 16 + tl.arange(0, 16)[None, :]
    a = tl.load(a_ptr + places)
    tl.store(out_ptr + places, tl.dot(a, tl.trans(a)).to(tl.bfloat16))


@triton.jit
def count_kernel(out_ptr: tl.tensor, end: tl.tensor) -> None:
    """out[i] = i up to an argument of the kernel."""
    for i in range(0, end):
        tl.store(out_ptr + i, i)


@cache
def interpreter_computes_bf16() -> bool:
    """Call only if kernels are interpreted. As released it multiplies bit patterns (triton issue 11584)."""
    # Eighths: their products and sums are exact in fp32, so the one rounding has one right result.
    a = (torch.arange(256).view(16, 16) % 37 - 18).div(8).bfloat16()
    out = torch.empty_like(a)
    bf16_product_kernel[(1,)](a, out)
    return torch.equal(out, (a.float() @ a.float().T).bfloat16())


@cache
def interpreter_counts() -> bool:
    """Call only if kernels are interpreted. Triton 3.6 fails with NumPy 2.4 or later (triton issue 9171)."""
    out = torch.zeros(3, dtype=torch.int32)
    try:
        count_kernel[(1,)](out, 3)
    except InterpreterError:
        return False
    return out.tolist() == [0, 1, 2]
