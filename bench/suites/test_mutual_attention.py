"""Mutual-aware attention: forward, backward and both, its columns side by side.

mutual_attention_columns.py describes the columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor
from torch._functorch import config as autograd_config

from maris_fast.bench.measuring import saved_bytes
from maris_fast.bench.mutual_attention_columns import (
    Column,
    Part,
    Shape,
    build,
    columns,
    differentiated,
    failures,
    gradients,
    inputs,
    must_move,
    used,
)

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
# Those of the narrowest column: ``must_move`` is the same for all columns.
ELEMENT_BYTES = 2 if ON_GPU else 4

# The 32 expressions of a training step, on 32 images or fewer.
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
# Never a single pair: for it torch.compile's CPU code of torch 2.11 gives wrong gradients of z_v and z_l, and
# the check rejects it.
ON_CPU_SHAPES = {
    "small": Shape(2, 1, 256, 16, 64),
    "two images": Shape(2, 1, 1024, 20, 256),
    "groups of 4": Shape(1, 4, 1024, 20, 128),
}
SHAPES = ON_GPU_SHAPES if ON_GPU else ON_CPU_SHAPES
CASES = [
    pytest.param(name, column, part, id=f"{name}-{column.name}-{part}")
    for name in SHAPES
    for column in columns(DEVICE).values()
    for part in column.parts
]


@pytest.mark.parametrize(("shape", "column", "part"), CASES)
def test_mutual_attention(shape: str, column: Column, part: Part, measure: Callable[..., None]) -> None:
    size = SHAPES[shape]
    leaves, offsets = inputs(size, DEVICE, column.leaves)
    if part == "forward":
        leaves = [leaf.detach() for leaf in leaves]
    forward = build(column, size, offsets)

    def prove(got: Sequence[Tensor]) -> None:
        wrong = failures(got, column, size, DEVICE)
        if wrong:
            pytest.fail(f"{column.name} gives wrong results here, so it is not timed: {'; '.join(wrong)}")

    told = {"shape": shape, "impl": column.name, "part": part, "computes": column.computes, **vars(size)}
    told |= {
        "dtype": str(column.leaves).removeprefix("torch."),
        "must_move": must_move(size, part, ELEMENT_BYTES),
    }
    # A compiled backward may overwrite what was saved for it, which it must not do when run repeatedly.
    with autograd_config.patch(donated_buffer=part != "backward"), torch.set_grad_enabled(part != "forward"):
        try:
            outputs = forward(leaves)
        except Exception as error:
            if column.name != "flex-attention":
                raise
            pytest.skip(f"FlexAttention can't: {' '.join(str(error).split())[:200]}")
        if part == "forward":
            prove(outputs)
            measure(lambda: forward(leaves), **told)
        elif part == "both":
            above = gradients(outputs)
            del outputs
            prove(differentiated(forward, leaves, above))
            beyond, whole = saved_bytes(lambda: forward(leaves), leaves)
            told["saved_bytes_a_pair"] = whole // size.pairs
            told["saved_beyond_inputs_a_pair"] = beyond // size.pairs
            measure(lambda: differentiated(forward, leaves, above), **told)
        else:
            above, needed = gradients(outputs), used(leaves, outputs)

            def backward() -> tuple[Tensor, ...]:
                return torch.autograd.grad(outputs, needed, above, retain_graph=True)

            prove([*outputs, *backward()])
            measure(backward, **told)
