"""Breaks cross-attention's kernels on purpose, one line at a time: the parity check has to notice each."""

from __future__ import annotations

import pytest
import torch

from maris_fast.kernels import cross_attention
from maris_fast.kernels.cross_attention import fused
from maris_fast.kernels.cross_attention.parity import Case, draw, failures
from tests.kernels.conftest import UseBroken

pytestmark = pytest.mark.interpreter

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
bf16 = torch.bfloat16

MUTATIONS = {
    "drop the mask and the constant": ("+ c[None, :]", "+ 0 * tl.where(c == c, 0.0, c)[None, :]"),
    "softmax without its maximum": ("S - tl.max(S, axis=1)[:, None]", "S"),
    "softmax without its sum": ("return P / tl.sum(P, axis=1)[:, None]", "return P"),
    "only the last head's result": ("V, out, input", "V, input"),
    "forget the bias": ("dtype=tl.float32) + bias[None, :]", "dtype=tl.float32) + 0 * bias[None, :]"),
    "the first head's keys for all": ("of_head = (e * heads + head)", "of_head = (e * heads + 0 * head)"),
    "the first tile for all": (
        "tl.program_id(1).to(tl.int64) * BLOCK_Q",
        "tl.program_id(1).to(tl.int64) * 0",
    ),
    "dS without its row sum": ("(dA - tl.sum(A * dA, axis=1)[:, None])", "dA"),
    "only the last head's dx": ("K, dx, input", "K, input"),
    "A of another tile": (
        "(first + rows)[:, None]\n        tl.store(A_ptr",
        "rows[:, None]\n        tl.store(A_ptr",
    ),
    "a softmax 3% too warm": ("tl.exp(S - tl.max", "tl.exp(0.97 * S - 0.97 * tl.max"),
    "dS where A belongs": ("tl.store(A_ptr + pairs, A.to(K.dtype)", "tl.store(A_ptr + pairs, dS"),
}
HARD = [
    Case(E=3, L_q=100, L_k=11, heads=2, d=32, C=64, dtype=bf16),
    Case(E=2, L_q=70, L_k=5, heads=2, d=8, C=24, dtype=bf16),
]
# Only scores far from 0 need the maximum subtracted.
OVERFLOWS = ("softmax without its maximum",)


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_kernel_is_noticed(name: str, use_broken: UseBroken) -> None:
    right, wrong = MUTATIONS[name]
    use_broken(fused, right, wrong)
    if name in OVERFLOWS:
        drawn = draw(HARD[1], DEVICE)
        leaves = {**drawn.leaves, "k": drawn.leaves["k"] * 1000}
        assert not cross_attention(**leaves, key_mask=drawn.key_mask, impl="triton").isfinite().all()
    else:
        assert any(failures("triton", case, DEVICE) for case in HARD)


def test_the_cases_of_the_mutations_pass_unbroken() -> None:
    assert [failures("triton", case, DEVICE) for case in HARD] == [[], []]
