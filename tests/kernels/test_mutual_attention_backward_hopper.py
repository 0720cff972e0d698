"""The backward for Hopper in the interpreter, and the calls for which it is tried."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from maris_fast.kernels import UnsupportedError, mutual_attention, triton_here
from maris_fast.kernels.mutual_attention import backward_hopper, candidates, operator
from maris_fast.kernels.mutual_attention.blocks import HOPPER_BACKWARD, TMA_ROWS, Blocks, Walk, blocks
from maris_fast.kernels.mutual_attention.candidates import Kind
from maris_fast.kernels.mutual_attention.parity import Case, parity
from maris_fast.kernels.mutual_attention.reference import Reading
from maris_fast.kernels.triton_here import KNOWN
from tests.kernels.conftest import UseBroken

pytestmark = pytest.mark.interpreter

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
fp16, bf16 = torch.float16, torch.bfloat16

EVERYTHING, DEFAULT = Reading("columns", "all", "channels"), Reading("columns", "none", "channels")
CASES = [
    # Both word blocks, several tiles per program, channels that don't fill a block, padding, no word kept.
    Case(L_v=260, L_t=16, C=256, dtype=bf16, scale=4.0),
    Case(L_v=140, L_t=7, C=96, dtype=bf16, images=3, padded=True),
    Case(L_v=130, L_t=20, C=192, dtype=bf16, images=2, padded=True, keep="irrelevant", shift=0.5),
    Case(L_v=130, L_t=32, C=72, dtype=bf16, keep="all", scale=8.0, shift=1.0),
    Case(L_v=140, L_t=20, C=256, dtype=fp16, counts=(2, 0, 1), padded=True, scale=4.0),
    Case(L_v=1, L_t=1, C=128, dtype=fp16),
    # The other readings, with rows and words without a kept pair.
    Case(
        L_v=20,
        L_t=7,
        C=72,
        dtype=bf16,
        counts=(0, 2, 1),
        padded=True,
        tau=0.9,
        scale=40.0,
        reading=EVERYTHING,
    ),
    Case(L_v=130, L_t=20, C=72, dtype=fp16, tau=0.6, scale=4.0, shift=0.5, reading=DEFAULT),
]


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every backward is the one for Hopper; two programs at once means several tiles each."""
    table = operator._blocks

    def with_tma(*call: object) -> Blocks:
        own = table(*call)  # type: ignore[arg-type]
        return replace(own, backward=replace(HOPPER_BACKWARD[min(own.words, 32)], programs=2))

    monkeypatch.setattr(operator, "_blocks", with_tma)


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.L_v}x{case.L_t}x{case.C}-{case.dtype}")
def test_parity(case: Case) -> None:
    assert parity(case, DEVICE).failures() == []


MUTATIONS = {
    "only the last tile's Gᵀ (r A)": ("rA, H[part], input", "rA, input"),
    "only the last tile's Z_vᵀ B": ("B, P[part], input", "B, input"),
    "only the last tile's (r A)ᵀ (c2 r A)": ("cA, Q, input", "cA, input"),
    "Q of B": ("tl.join(rA, B)", "tl.join(B, rA)"),
    "no sum of k": ("u += tl.sum(rA", "u += 0 * tl.sum(rA"),
    "the first part's weight for all": (
        "channels = part * PART + tl.arange(0, PART)\n    return",
        "channels = tl.arange(0, PART)\n    return",
    ),
    "dX without c1": ("k = c2_rstd * mean - c1", "k = c2_rstd * mean"),
    "dX without the mean": ("k = c2_rstd * mean - c1", "k = -c1"),
    "dZ_v without a Z_v": ("dz_v -= a[:, None] * z_v", "pass"),
    "dZ_l without the weight": ("weight[:, None] * H[part]", "H[part]"),
    "dA without the words' sums": ("dx_z_l += k[:, None] * word_sum[None, :]", "dx_z_l += 0"),
    "no Gram matrix": ("x_z_l = tl.dot(rounded_A, gram, S", "x_z_l = S + 0 * tl.dot(rounded_A, gram, S"),
    "forget Z_v dYᵀ": ("* dx_z_l + z_v_dy", "* dx_z_l"),
    "forget A dY": ("dz_v = tl.dot(rounded_A, dy[part]", "dz_v = 0 * tl.dot(rounded_A, dy[part]"),
    "forget B Z_l": ("dz_v = tl.dot(B, z_l[part], dz_v", "tl.dot(B, z_l[part], dz_v"),
    "softmax without its row sum": ("(dA - tl.sum(A * dA, axis=1)[:, None])", "dA"),
    "weight's gradient without the words": ("dw = tl.sum(z_l_t", "dw = 0 * tl.sum(z_l_t"),
    "no bias' gradient": ("db_partial_ptr + channels, tl.sum(g", "db_partial_ptr + channels, 0 * tl.sum(g"),
    "c1 by the first part": (
        "gw_sum = tl.dot(grad[part], w[part], gw_sum",
        "gw_sum = tl.dot(grad[0], w[0], gw_sum",
    ),
    "c2 by a part": ("w[part], gw_z_v, input", "w[part], input"),
    "weight's gradient without the mean": ("rstd[:, None] - mean_rstd[:, None])", "rstd[:, None])"),
    "pieces in another order": ("2 * part + half,", "2 * part,"),
    "skip the last tile": ("tl.cdiv(L_v, BLOCK_V))", "tl.cdiv(L_v, BLOCK_V) - 1)"),
    "every sum in bf16": (
        'input_precision="ieee")',
        'input_precision="ieee").to(tl.bfloat16).to(tl.float32)',
    ),
    "no gradient through the column sums": ("(word_sum, -shift, dtype)", "(word_sum, 0 * shift, dtype)"),
    "the column sums' gradient added": ("(word_sum, -shift, dtype)", "(word_sum, shift, dtype)"),
    "dA without the words' sums, columns": ("(word_sum, -shift, dtype)", "(0 * word_sum, -shift, dtype)"),
    "only the last expression's dZ_v": ("dz_v += tl.load(own", "dz_v = tl.load(own"),
    "the first image's tokens for all": ("z_v_desc.load([image", "z_v_desc.load([0 * image"),
    "dS without the scale": ("dS *= SCALE", "dS *= 1.0"),
    "the softmax without the scale": ("S * SCALE if SCALE != 1.0 else S", "S"),
}
OF_READINGS_AND_GROUPS = list(MUTATIONS)[-7:]
NOTICED_BY = Case(L_v=260, L_t=20, C=72, dtype=bf16, scale=4.0, shift=0.5)


@pytest.mark.usefixtures("hopper")
def test_the_case_of_the_mutations_passes_unbroken() -> None:
    assert parity(NOTICED_BY, DEVICE).failures() == []


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_kernel_is_noticed(name: str, use_broken: UseBroken) -> None:
    right, wrong = MUTATIONS[name]
    use_broken(backward_hopper, right, wrong)
    assert parity(CASES[-2] if name in OF_READINGS_AND_GROUPS else NOTICED_BY, DEVICE).failures()


@pytest.mark.usefixtures("hopper")
def test_one_image_may_have_any_stride_between_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a dimension of size 1 a contiguous tensor has any stride; TMA takes multiples of 16 bytes only."""
    table = operator._blocks

    def with_tma(*call: object) -> Blocks:
        return replace(table(*call), forward=Walk(TMA_ROWS, 8, 3, programs=2))  # type: ignore[arg-type]

    monkeypatch.setattr(operator, "_blocks", with_tma)
    usual, z_l = (torch.randn(1, length, 96, device=DEVICE).to(bf16) for length in (130, 20))
    odd = usual.as_strided(usual.shape, (1, 96, 1))
    assert odd.is_contiguous()
    assert odd.stride(0) == 1
    norms = [torch.ones(96, device=DEVICE), torch.zeros(96, device=DEVICE)] * 2

    def f_lav_and_gradient(z_v: Tensor) -> tuple[Tensor, Tensor]:
        z_v = z_v.detach().requires_grad_()
        f_lav, _ = mutual_attention(z_v, z_l, *norms, keep="all", impl="triton")
        return f_lav, torch.autograd.grad(f_lav, z_v, odd)[0]

    for one, other in zip(f_lav_and_gradient(odd), f_lav_and_gradient(usual), strict=True):
        assert torch.equal(one, other)


@pytest.mark.usefixtures("hopper")
def test_more_words_it_refuses() -> None:
    with pytest.raises(UnsupportedError, match="takes up to 32 words"):
        parity(Case(L_v=5, L_t=40, C=96, dtype=bf16), DEVICE)


KIND = Kind("bfloat16", 32, 256, 4096, False, False, True)


@pytest.mark.parametrize(
    ("kind", "architecture", "tried"),
    [
        (KIND, 90, True),
        (KIND._replace(words=16, dtype="float16"), 90, True),
        (KIND._replace(words=64), 90, False),
        (KIND._replace(grouped=True), 90, True),
        (KIND._replace(gradient=False), 90, False),
        (KIND._replace(language_norm="columns", empty_rows="all", score_scale="channels"), 90, True),
        (KIND._replace(dtype="float32"), 90, False),
        (KIND._replace(C=252), 90, False),
        (KIND._replace(C=192), 90, True),
        (KIND._replace(C=128), 90, False),
        (KIND, 80, False),
        (KIND, 100, False),
    ],
)
def test_hopper_alone_tries_it_and_the_table_keeps_its_own(
    kind: Kind, architecture: int, tried: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_here, "limits", lambda device: KNOWN[architecture])
    monkeypatch.setattr(operator, "why_unsupported", lambda *call: None)
    offered = candidates.candidates(kind, DEVICE)
    own = blocks(KNOWN[architecture], 2, kind.words, kind.C, divided=kind.language_norm == "columns")
    assert (f"triton:{own.forward}+128/8/1/0/132" in offered) == tried
    assert offered[0] == "triton"
    assert not own.backward.by_tma
