"""The forward for Hopper in the interpreter, and which forward a call takes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from maris_fast.kernels import triton_here
from maris_fast.kernels.mutual_attention import candidates, forward_hopper, operator
from maris_fast.kernels.mutual_attention.blocks import Walk, at_once, blocks, split_evenly
from maris_fast.kernels.mutual_attention.candidates import Kind
from maris_fast.kernels.mutual_attention.operator import (
    mutual_attention_fwd,
    mutual_attention_triton,
    switches,
)
from maris_fast.kernels.mutual_attention.parity import Case, parity
from maris_fast.kernels.mutual_attention.reference import AS_PRINTED
from maris_fast.kernels.triton_here import ARCHITECTURES, KNOWN, Limits, triton_version
from tests.kernels.conftest import UseBroken

pytestmark = pytest.mark.interpreter

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
fp32, fp16, bf16 = torch.float32, torch.float16, torch.bfloat16

CASES = [
    # All word blocks, several tiles per program, channels that do not fill their block, groups, padding.
    Case(L_v=260, L_t=16, C=256, scale=4.0),
    Case(L_v=70, L_t=7, C=96, counts=(2, 0, 1), padded=True),
    Case(L_v=140, L_t=40, C=200, counts=(1, 1), padded=True, keep="irrelevant"),
    Case(L_v=130, L_t=64, C=128, keep="all", scale=4.0, shift=1.0),
    Case(L_v=1, L_t=1, C=128),
]


# No call takes TMA in fp32, whose tiles a GPU's shared memory can't hold; there the bounds are tightest.
DTYPES = (fp32, bf16) if operator.INTERPRETED else (bf16,)


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.L_v}x{case.L_t}x{case.C}")
def test_parity(case: Case) -> None:
    for dtype in DTYPES:
        assert parity(replace(case, dtype=dtype), DEVICE).failures() == []


@pytest.mark.usefixtures("hopper")
def test_parity_in_fp16() -> None:
    assert parity(replace(CASES[1], dtype=fp16), DEVICE).failures() == []


MUTATIONS = {
    "only the last tile's Aᵀ Z_v": ("tl.trans(z_v), A, gathered, input", "tl.trans(z_v), A, input"),
    "no residual of X": ("tl.dot(A, z_l, z_v.to(tl.float32), input", "tl.dot(A, z_l, input"),
    "the first quarter's weight for all": ("channels = quarter * QUARTER + ", "channels = "),
    "quarters in another order": ("x_hat_1, weight_ptr, bias_ptr, 1", "x_hat_1, weight_ptr, bias_ptr, 2"),
    "the first image for all": ("z_v_desc.load([image", "z_v_desc.load([0 * image"),
    "x̂ without the mean": ("X * rstd[:, None] - (mean * rstd)[:, None]", "X * rstd[:, None]"),
    "the words beyond 32 as those before": ("may_keep_1 | (tile", "may_keep_0 | (tile"),
    "a softmax 3% too warm": ("(S - highest[:, None]) * LOG2_E", "(S - highest[:, None]) * 0.97 * LOG2_E"),
    "every sum in bf16": (
        'input_precision="ieee")',
        'input_precision="ieee").to(tl.bfloat16).to(tl.float32)',
    ),
    "padded channels in the variance": ("centred = tl.where(is_channel[None, :], centred, 0.0)", "pass"),
}
NOTICED_BY = [
    Case(L_v=140, L_t=40, C=96, dtype=bf16, counts=(1, 3), padded=True, keep="all", scale=8.0, shift=0.5),
]


@pytest.mark.usefixtures("hopper")
@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_kernel_is_noticed(name: str, use_broken: UseBroken) -> None:
    right, wrong = MUTATIONS[name]
    use_broken(forward_hopper, right, wrong)
    assert any(parity(case, DEVICE).failures() for case in NOTICED_BY)


@pytest.mark.usefixtures("hopper")
def test_the_cases_of_the_mutations_pass_unbroken() -> None:
    assert [parity(case, DEVICE).failures() for case in NOTICED_BY] == [[]]


@pytest.mark.parametrize("words", [16, 32, 64, 128])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_hopper_alone_takes_the_forward_by_tma_and_where_it_can(architecture: int, words: int) -> None:
    by_tma = architecture == 90 and words < 128
    assert blocks(KNOWN[architecture], 2, words, 256).forward.by_tma == by_tma
    # 8 numbers of 16 bits are 16 bytes.
    assert blocks(KNOWN[architecture], 2, words, 248).forward.by_tma == by_tma
    assert not blocks(KNOWN[architecture], 2, words, 252).forward.by_tma
    assert not blocks(KNOWN[architecture], 2, words, 64).forward.by_tma
    assert not blocks(KNOWN[architecture], 2, words, 512).forward.by_tma
    assert not blocks(KNOWN[architecture], 4, words, 256).forward.by_tma


def test_128_words_go_in_chunks_where_shared_memory_is_small() -> None:
    chunks = {at: blocks(KNOWN[at], 2, 100, 256).forward.chunk for at in ARCHITECTURES}
    # With whole rows, Triton 3.9 spills.
    whole = 64 if triton_version() >= (3, 9) else 0
    assert chunks == {80: whole, 86: 64, 89: 64, 90: whole, 100: whole, 120: 64}
    assert blocks(KNOWN[80]._replace(shared_bytes=100 * 1024), 2, 100, 256).forward.chunk == 64


@pytest.mark.usefixtures("hopper")
def test_inputs_at_odd_addresses_are_taken() -> None:
    def moved(t: Tensor) -> Tensor:
        room = torch.empty(t.numel() + 1, dtype=t.dtype, device=t.device)
        return room[1:].view(t.shape).copy_(t)

    generator = torch.Generator().manual_seed(0)
    z_v, z_l = (torch.randn(2, n, 96, generator=generator).to(DEVICE, bf16) for n in (70, 7))
    assert moved(z_v).data_ptr() % 16
    weight, bias = torch.ones(96, device=DEVICE), torch.zeros(96, device=DEVICE)

    def call(z_v: Tensor, z_l: Tensor) -> list[Tensor]:
        leaves = [z_v.detach().requires_grad_(), z_l.detach().requires_grad_()]
        outputs = mutual_attention_triton(
            *leaves,
            *(weight, bias, weight, bias),
            tau=0.5,
            keep="relevant",
            word_mask=None,
            expr_offsets=None,
            eps=1e-5,
        )
        gradients = [moved(torch.ones_like(t)) for t in outputs]
        return [*outputs, *torch.autograd.grad(outputs, leaves, gradients)]

    for got, needed in zip(call(moved(z_v), moved(z_l)), call(z_v, z_l), strict=True):
        assert torch.equal(got, needed)


@pytest.mark.usefixtures("hopper")
def test_opcheck() -> None:
    leaves = [torch.randn(2, n, 96, device=DEVICE).to(bf16).requires_grad_() for n in (70, 7)]
    parameters = [torch.ones(96, device=DEVICE) for _ in range(4)]
    arguments = (*leaves, *parameters, None, None, torch.tensor(0.5), 0, 1e-5, *switches(AS_PRINTED), "")
    torch.library.opcheck(mutual_attention_fwd, arguments, test_utils=("test_schema", "test_faketensor"))


H100 = KNOWN[90]


@pytest.mark.parametrize(
    ("expressions", "tokens", "longest"),
    # On 132 multiprocessors, 1024 tiles of 128 rows are 7.8 each, 1344 are 10.2, 4256 are 32.2.
    [(32, 4096, 8), (56, 3072, 12), (1, 4096, 1), (132, 4096, 32), (133, 4096, 36)],
)
def test_programs_that_run_one_after_the_other_waste_no_wave(
    expressions: int, tokens: int, longest: int
) -> None:
    walk = blocks(H100, 2, 32, 256).forward
    tiles = -(-tokens // walk.rows)
    tiles_a_program, splits = split_evenly(tiles, expressions, walk.programs)
    assert walk.programs == H100.processors
    assert (splits - 1) * tiles_a_program < tiles <= splits * tiles_a_program
    waves = -(-expressions * splits // H100.processors)
    assert waves * tiles_a_program <= longest


def test_a_device_is_asked_how_many_programs_it_runs_at_once() -> None:
    small = Limits(90, 66, H100.shared_bytes)
    assert blocks(small, 2, 32, 256).forward.programs == 66
    # Four warps, so two programs per multiprocessor.
    assert blocks(small, 2, 32, 256).backward.programs == 132


def test_every_candidate_runs_as_many_programs_as_the_device_that_is_present(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small = Limits(90, 66, H100.shared_bytes)
    monkeypatch.setattr(triton_here, "limits", lambda device: small)
    monkeypatch.setattr(operator, "why_unsupported", lambda *call: None)
    offered = candidates.candidates(Kind("bfloat16", 32, 256, 4096, False, False, True), DEVICE)
    walks = [Walk.read(walk) for one in offered for walk in candidates.cut_of(one).split("+") if walk]
    assert len(walks) == 6
    assert all(walk.programs == at_once(walk, small) for walk in walks)
