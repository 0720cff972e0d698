"""Breaks the kernels on purpose, one line at a time: the parity check has to notice each."""

from __future__ import annotations

import pytest
import torch

from maris_fast.kernels.mutual_attention import backward, forward
from maris_fast.kernels.mutual_attention.parity import Case, parity
from tests.kernels.conftest import UseBroken

pytestmark = pytest.mark.interpreter

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

bf16 = torch.bfloat16
# Several tiles and splits, groups of 2, 0 and 1, padding, C in chunks; scores large enough that their
# rounding shows, and tokens with a non-zero mean.
IN_BF16 = [
    Case(L_v=100, L_t=7, C=64, dtype=bf16, shift=0.5),
    Case(L_v=70, L_t=20, C=64, dtype=bf16, counts=(2, 0, 1), padded=True, scale=8.0),
    Case(L_v=70, L_t=20, C=300, dtype=bf16, scale=8.0, shift=0.5),
]
# Words in quarters, and no Gram matrix.
IN_FP32 = [Case(L_v=20, L_t=77, C=64)]

ROUNDED = 'input_precision="ieee").to(tl.bfloat16).to(tl.float32)'
MUTATIONS = {
    "drop the word mask": (forward, "other=0) != 0", "other=0) >= 0"),
    "flip the comparison": (forward, "threshold <= S", "threshold > S"),
    "skip the last tile": (forward, "tl.cdiv(L_v, BLOCK_V))", "tl.cdiv(L_v, BLOCK_V) - 1)"),
    "take the wrong image": (forward, "(offset <= e)", "(offset < e)"),
    "wrong mean of X": (forward, "mean = tl.sum(X, axis=1) / C", "mean = tl.sum(X, axis=1) / (C - 1)"),
    "no words in the mean of chunks": (forward, "(row_sum + tl.sum(A", "(row_sum + 0 * tl.sum(A"),
    "variance with padded channels": (forward, "X = tl.where(is_z_v, X, 0.0)", "X = X"),
    "lose a tile's share of Aᵀ Z_v": (forward, "z_v, gathered, input", "z_v, input"),
    "lose a split's share of Aᵀ Z_v": (forward, "for split in range(0,", "for split in range(1,"),
    "forget the residual of Y": (forward, "y += tl.load(z_l_ptr", "y += 0 * tl.load(z_l_ptr"),
    "shift the saved gate": (forward, "<< tl.arange(0, BITS)", "<< (tl.arange(0, BITS) + 1)"),
    "forget dS Z_l": (backward, "dz_v = sum_over_words(dS, z_l, dz_v", "sum_over_words(dS, z_l, dz_v"),
    "forget A dY": (backward, "dz_v = sum_over_words(A, dy, dX", "dz_v = dX + 0 * sum_over_words(A, dy, dX"),
    "forget a quarter of the words": (backward, "total = tl.dot(weights_10, ", "tl.dot(weights_10, "),
    "take a quarter of the words twice": (
        backward,
        "tl.dot(weights_01, words_01",
        "tl.dot(weights_00, words_00",
    ),
    "forget dSᵀ Z_v": (backward, "dz_l = tl.dot(tl.trans(dS)", "tl.dot(tl.trans(dS)"),
    "forget Z_v dYᵀ": (backward, "dx_z_l + z_v_dy", "dx_z_l"),
    "softmax without its row sum": (backward, "(dA - tl.sum(A * dA, axis=1)[:, None])", "dA"),
    "dX without c1": (backward, "- c1[:, None] - x_hat", "- x_hat"),
    "dX without c2": (backward, "- x_hat * c2[:, None])", ")"),
    "no Gram matrix": (backward, "x_z_l = tl.dot(A, gram, S", "x_z_l = S + 0 * tl.dot(A, gram, S"),
    "only the last expression's dZ_v": (backward, "dz_v += tl.load", "dz_v += 0 * tl.load"),
    "only the last tile's dZ_l": (backward, "dz_l += tl.load(own_l", "dz_l += 0 * tl.load(own_l"),
    "nothing for an image without expressions": (backward, "if first_e == end_e", "if first_e > end_e"),
    "weight's gradient from X": (backward, "tl.sum(grad * x_hat, axis=0)", "tl.sum(grad * X, axis=0)"),
    "forget dY": (backward, "dz_l = tl.load(dy_ptr", "dz_l = 0 * tl.load(dy_ptr"),
    "a softmax 3% too warm": (
        forward,
        "tl.exp(S - highest[:, None])",
        "tl.exp(0.97 * (S - highest[:, None]))",
    ),
    "every sum of the forward in bf16": (forward, 'input_precision="ieee")', ROUNDED),
    "every sum of the backward in bf16": (backward, 'input_precision="ieee")', ROUNDED),
}
OF_FP32 = ("forget a quarter of the words", "take a quarter of the words twice")


def test_the_kernels_as_they_are_pass() -> None:
    for case in (*IN_BF16, *IN_FP32):
        assert parity(case, DEVICE).failures() == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_kernel_is_noticed(name: str, use_broken: UseBroken) -> None:
    module, right, wrong = MUTATIONS[name]
    use_broken(module, right, wrong)
    cases = IN_FP32 if name in OF_FP32 else IN_BF16
    assert any(parity(case, DEVICE).failures() for case in cases)
