"""Other readings of eqs. 3-5 in the kernels: parity by the usual proof, and kernels broken on purpose."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from maris_fast.kernels import Reading, mutual_attention
from maris_fast.kernels.mutual_attention import backward, forward, forward_hopper
from maris_fast.kernels.mutual_attention.candidates import (
    REFERENCE,
    TRITON,
    Kind,
    _ragged,
    _whole,
    candidates,
    failures,
)
from maris_fast.kernels.mutual_attention.parity import Case, draw, parity
from tests.kernels.conftest import UseBroken

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = pytest.mark.interpreter
fp32, fp16, bf16 = torch.float32, torch.float16, torch.bfloat16
COLUMNS, ALL, SCALED = Reading("columns"), Reading(empty_rows="all"), Reading(score_scale="channels")
EVERYTHING = Reading("columns", "all", "channels")

# Several tiles, groups, padding of none to all of the words, rows that keep none.
SMALL = Case(L_v=40, L_t=7, C=16, counts=(2, 0, 1), padded=True, tau=0.75, dtype=bf16, scale=4.0)
CASES = [
    *(replace(SMALL, dtype=dtype, reading=EVERYTHING) for dtype in (fp32, fp16, bf16)),
    *(replace(SMALL, dtype=dtype, L_t=20, reading=COLUMNS) for dtype in (fp32, fp16, bf16)),
    Case(L_v=70, L_t=40, C=64, images=3, padded=True, tau=0.8, scale=2.0, dtype=bf16, reading=ALL),
    Case(L_v=70, L_t=7, C=64, tau=0.3, scale=4.0, shift=0.5, dtype=bf16, reading=SCALED),
    # C in chunks; words in quarters; eq. 4 as printed, with words that no pixel keeps; one pixel, one word.
    Case(L_v=40, L_t=20, C=300, scale=4.0, keep="all", dtype=bf16, reading=COLUMNS),
    Case(L_v=20, L_t=70, C=300, tau=0.6, counts=(1, 1), padded=True, reading=EVERYTHING),
    Case(L_v=37, L_t=7, C=64, keep="irrelevant", tau=0.05, dtype=bf16, reading=EVERYTHING),
    Case(L_v=1, L_t=1, C=16, tau=0.9, reading=EVERYTHING),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.L_v}x{case.L_t}x{case.C}-{case.dtype}")
def test_parity(case: Case) -> None:
    assert parity(case, DEVICE).failures() == []


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("dtype", [fp16, bf16], ids=str)
def test_parity_of_hoppers_forward(dtype: torch.dtype) -> None:
    case = Case(
        L_v=140, L_t=20, C=96, counts=(2, 0, 1), padded=True, tau=0.7, dtype=dtype, reading=EVERYTHING
    )
    assert parity(case, DEVICE).failures() == []


def test_as_printed_nothing_changes_to_the_last_bit() -> None:
    """The switches of the readings are resolved at compile time."""
    drawn = draw(Case(L_v=70, L_t=7, C=64, images=2, dtype=bf16), DEVICE)
    default = mutual_attention(*drawn.leaves, impl="triton")
    named = mutual_attention(*drawn.leaves, impl="triton", reading=Reading("none", "none", "none"))
    assert all(torch.equal(*pair) for pair in zip(default, named, strict=True))
    other = mutual_attention(*drawn.leaves, impl="triton", reading=COLUMNS)
    assert torch.equal(other[0], default[0])  # f_lav is not divided
    assert not torch.equal(other[1], default[1])


def test_a_word_that_no_pixel_keeps_is_its_own_norm_and_gradients_are_finite() -> None:
    z_v = torch.full((1, 33, 16), 0.5, device=DEVICE, requires_grad=True)
    z_l = torch.cat([torch.ones(1, 1, 16), -torch.linspace(1, 2, 16)[None, None]], 1).to(DEVICE)
    z_l = z_l.requires_grad_()
    norms = [torch.ones(16, device=DEVICE), torch.zeros(16, device=DEVICE)] * 2
    f_lav, f_val = mutual_attention(z_v, z_l, *norms, impl="triton", reading=COLUMNS)
    torch.testing.assert_close(f_val[0, 1], torch.nn.functional.layer_norm(z_l[0, 1], (16,)))
    gradients = torch.autograd.grad((f_lav + f_val[:, 1:]).square().sum(), (z_v, z_l))
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_a_kind_is_proven_with_its_reading() -> None:
    kind = Kind("float32", 16, 16, 32, False, True, True, *EVERYTHING)
    assert candidates(kind, DEVICE)[0] == TRITON
    assert candidates(kind, DEVICE)[-1] == REFERENCE
    assert [case.reading for case in (_ragged(kind, DEVICE), _whole(kind, DEVICE))] == [EVERYTHING] * 2
    assert failures(TRITON, kind, DEVICE) == []


NOTICED_BY = replace(SMALL, reading=EVERYTHING)
MUTATIONS = {
    "no division": (forward, "y = y / total", "y = y"),
    "rows beyond L_v in the column sums": (forward, "    if is_row is not None:", "    if False:"),
    "sums over everything": (forward, "+ places, sums, mask", "+ places, sums * 0 + tl.sum(sums), mask"),
    "the first tile's column sums alone": (forward, "mask=tile < tiles", "mask=tile < 1"),
    "another expression's column sums": (forward, "(e * tiles + tile)", "(0 * tiles + tile)"),
    "empty rows skipped": (forward, "if FILL:", "if False:"),
    "padding attended in empty rows": (forward, "& may_keep[None, :])\n    return", ")\n    return"),
    "the other rows filled too": (forward, "kept | (keeps_none[:, None] & may", "kept | (may"),
    "no scale of S": (forward, "if SCALE != 1.0:", "if False:"),
    "dY not divided": (backward, "dy = dy / column[:, None]", "dy = dy"),
    "no gradient through the column sums": (backward, "dA -= tl.load(", "dA -= 0 * tl.load("),
    "the shift of Y, not of the mean of pixels": (backward, "y - tl.load(z_l_ptr", "y - 0 * tl.load(z_l_ptr"),
    "dZ_l from the divided dY": (backward, "dz_l *= tl.load(column_sum_ptr + row)", "dz_l = dz_l"),
    "dS without the scale": (backward, "dS *= SCALE", "dS *= 1.0"),
    "the backward's softmax without the scale": (backward, "S * SCALE if SCALE != 1.0 else S", "S"),
}  # fmt: skip


def test_the_case_of_the_mutations_passes_unbroken() -> None:
    assert parity(NOTICED_BY, DEVICE).failures() == []


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_kernel_is_noticed(name: str, use_broken: UseBroken) -> None:
    module, right, wrong = MUTATIONS[name]
    use_broken(module, right, wrong)
    assert parity(NOTICED_BY, DEVICE).failures()


OF_HOPPER = {
    "no scale of S": ("S *= SCALE", "S *= 1.0"),
    "no fill": ("threshold, KEEP, FILL)", "threshold, KEEP, False)"),
    "the sums of another tile": ("A, e, tile, tl.cdiv", "A, e, tile * 0, tl.cdiv"),
    "rows beyond L_v in the column sums": ("    if is_row is not None:", "    if False:"),
}


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("name", OF_HOPPER)
def test_a_broken_forward_for_hopper_is_noticed(name: str, use_broken: UseBroken) -> None:
    use_broken(forward_hopper, *OF_HOPPER[name])
    case = Case(L_v=140, L_t=7, C=96, images=2, tau=0.9, scale=4.0, dtype=bf16, reading=EVERYTHING)
    assert parity(case, DEVICE).failures()
