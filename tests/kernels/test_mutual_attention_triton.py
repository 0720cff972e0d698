"""The Triton kernels of mutual-aware attention, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maris_fast.kernels import UnsupportedError, mutual_attention
from maris_fast.kernels.mutual_attention import operator
from maris_fast.kernels.mutual_attention.blocks import FP32_WORDS
from maris_fast.kernels.mutual_attention.operator import (
    INTERPRETED,
    KEEPS,
    mutual_attention_fwd,
    switches,
    unpack_gate,
)
from maris_fast.kernels.mutual_attention.parity import Case, draw, parity
from maris_fast.kernels.mutual_attention.reference import AS_PRINTED, Reading
from maris_fast.kernels.poisoned_memory import poisoned_memory

pytestmark = pytest.mark.interpreter

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROOT = Path(__file__).parents[2]
fp32, fp16, bf16 = torch.float32, torch.float16, torch.bfloat16

CASES = [
    # Lengths that tiles don't divide, words that don't fill a block, channels of every kind.
    Case(L_v=1, L_t=1, C=64),
    Case(L_v=1, L_t=5, C=128, dtype=bf16),
    Case(L_v=37, L_t=1, C=128),
    Case(L_v=37, L_t=7, C=64, dtype=fp16, images=2),
    Case(L_v=37, L_t=20, C=512),
    Case(L_v=37, L_t=20, C=512, dtype=bf16),
    Case(L_v=37, L_t=7, C=1024, dtype=bf16),
    Case(L_v=37, L_t=5, C=1024),
    Case(L_v=100, L_t=5, C=256, dtype=bf16),
    Case(L_v=100, L_t=7, C=256, images=2),
    Case(L_v=100, L_t=40, C=64),
    Case(L_v=100, L_t=77, C=128),
    Case(L_v=100, L_t=77, C=256, dtype=fp16),
    Case(L_v=70, L_t=9, C=32),
    Case(L_v=70, L_t=9, C=33),
    Case(L_v=70, L_t=9, C=300, dtype=fp16),
    Case(L_v=1024, L_t=20, C=64),
    Case(L_v=1024, L_t=16, C=128, dtype=bf16),
    Case(L_v=4096, L_t=20, C=256, dtype=bf16),
    Case(L_v=4096, L_t=5, C=64),
    Case(L_v=5000, L_t=1, C=32, dtype=bf16),
    # Both directions of the gate, thresholds, no gate.
    Case(L_v=100, L_t=7, C=64, keep="irrelevant"),
    Case(L_v=100, L_t=7, C=64, keep="irrelevant", tau=0.0),
    Case(L_v=100, L_t=20, C=64, keep="irrelevant", tau=0.7, dtype=bf16),
    Case(L_v=100, L_t=7, C=64, keep="all"),
    Case(L_v=100, L_t=7, C=64, tau=0.0),
    Case(L_v=100, L_t=20, C=64, tau=0.3, dtype=bf16),
    # Rows that keep nothing, nothing kept at all, and scores whose exp overflows (fp16, whose rounding hides
    # the order in which fp32 added such scores).
    Case(L_v=100, L_t=7, C=64, tau=0.9),
    Case(L_v=100, L_t=7, C=64, tau=0.999, scale=0.1),
    Case(L_v=100, L_t=7, C=64, scale=4.0, shift=1.0),
    Case(L_v=100, L_t=7, C=64, scale=60.0, dtype=fp16),
    # Padding, from no word to all; images with no expression, one or many.
    Case(L_v=70, L_t=20, C=64, images=3, padded=True),
    Case(L_v=70, L_t=7, C=64, images=3, padded=True, keep="irrelevant", dtype=fp16),
    Case(L_v=70, L_t=7, C=64, counts=(1, 1)),
    Case(L_v=70, L_t=7, C=64, counts=(2, 0, 1), padded=True),
    Case(L_v=70, L_t=7, C=64, counts=(2, 0, 1), padded=True, keep="irrelevant"),
    Case(L_v=100, L_t=20, C=96, counts=(0, 3, 0), padded=True, dtype=bf16),
    Case(L_v=70, L_t=7, C=64, counts=(8,)),
    # Views of wider tensors.
    Case(L_v=70, L_t=7, C=64, images=2, sliced=True),
    Case(L_v=70, L_t=7, C=96, counts=(2, 1), padded=True, sliced=True, dtype=bf16),
]


def named(case: Case) -> str:
    usual = Case(L_v=0, L_t=0, C=0)
    told = {name: value for name, value in vars(case).items() if value != getattr(usual, name)}
    return "-".join(f"{name}:{value}".replace("torch.", "") for name, value in told.items())


@pytest.mark.parametrize("case", CASES, ids=named)
def test_parity(case: Case) -> None:
    if not INTERPRETED and case.dtype == fp32 and case.L_t > FP32_WORDS:
        pytest.skip("refused, because this Triton's code would spill")
    assert parity(case, DEVICE).failures() == []


ALSO_IN_BF16 = [replace(case, dtype=bf16) for case in CASES if case.dtype != bf16 and case.L_v < 4096]


@pytest.mark.parametrize("case", [case for case in ALSO_IN_BF16 if case not in CASES], ids=named)
def test_parity_in_bf16(case: Case) -> None:
    assert parity(case, DEVICE).failures() == []


@pytest.mark.parametrize("dtype", [fp32, bf16])
def test_every_size_that_finds_bugs_is_tried_in_either_precision(dtype: torch.dtype) -> None:
    cases = [case for case in CASES if dtype in (case.dtype, bf16)]
    assert {1, 37, 100, 1024, 4096} <= {case.L_v for case in cases}
    assert {1, 5, 7, 20, 77} <= {case.L_t for case in cases}
    assert {32, 64, 128, 256, 512, 1024} <= {case.C for case in cases}
    assert {"relevant", "irrelevant"} <= {case.keep for case in cases}
    assert {0, 1, 2} <= {count for case in cases for count in case.counts or ()}
    assert any(case.padded and case.counts for case in cases)
    assert any(case.sliced for case in cases)


@pytest.mark.gpu
@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs one program after the other")
def test_a_thousand_runs_are_bitwise_equal() -> None:
    case = Case(L_v=4096, L_t=32, C=256, dtype=torch.bfloat16, counts=(3, 5), padded=True)
    run = prepared(case)
    first = run()
    for _ in range(1000):
        assert all(torch.equal(*pair) for pair in zip(run(), first, strict=True))


def public(case: Case, **changed: Any) -> list[Tensor]:
    """Outputs and gradients of one case through the public function."""
    return prepared(case, **changed)()


def prepared(case: Case, **changed: Any) -> Callable[[], list[Tensor]]:
    """The same as a function that can be called repeatedly, on inputs drawn once."""
    drawn = draw(case, DEVICE)
    leaves = [t.detach().requires_grad_() for t in drawn.leaves]
    settings: dict[str, Any] = {
        "tau": case.tau,
        "keep": case.keep,
        "word_mask": drawn.word_mask,
        "expr_offsets": drawn.expr_offsets,
        "impl": "triton",
        **changed,
    }

    def run() -> list[Tensor]:
        outputs = mutual_attention(*leaves, **settings)
        return [*outputs, *torch.autograd.grad(outputs, leaves, drawn.gradients)]

    return run


SMALL = Case(L_v=70, L_t=7, C=64, counts=(2, 0, 1), padded=True)


def test_the_public_function_agrees_with_the_reference() -> None:
    """The gate is not passed to the reference: the inputs' scores all keep away from the threshold."""
    for seed in range(100):
        case = Case(L_v=70, L_t=7, C=64, counts=(2, 0, 1), padded=True, tau=0.6, seed=seed)
        drawn = draw(case, DEVICE)
        S = drawn.leaves[0][[0, 0, 2]] @ drawn.leaves[1].transpose(1, 2)
        if (S - math.log(0.6 / 0.4)).abs().min() > 1e-3:
            break
    else:
        pytest.fail("no seed keeps the scores away from the threshold")
    for got, needed in zip(public(case), public(case, impl="reference"), strict=True):
        torch.testing.assert_close(got, needed, rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize(
    "case", [SMALL, Case(L_v=1024, L_t=20, C=96, dtype=fp16), Case(L_v=37, L_t=7, C=300)], ids=named
)
def test_two_runs_are_bitwise_equal_whatever_the_memory_held(case: Case) -> None:
    first = public(case)
    with poisoned_memory():
        again = public(case)
    assert all(torch.equal(*pair) for pair in zip(first, again, strict=True))


def test_a_gradient_can_be_asked_for_twice() -> None:
    drawn = draw(SMALL, DEVICE)
    leaves = [t.detach().requires_grad_() for t in drawn.leaves]
    outputs = mutual_attention(
        *leaves, word_mask=drawn.word_mask, expr_offsets=drawn.expr_offsets, impl="triton"
    )
    first = torch.autograd.grad(outputs, leaves, drawn.gradients, retain_graph=True)
    second = torch.autograd.grad(outputs, leaves, drawn.gradients)
    assert all(torch.equal(*pair) for pair in zip(first, second, strict=True))


def test_a_changed_input_is_noticed() -> None:
    drawn = draw(SMALL, DEVICE)
    z_l = drawn.leaves[1].detach().requires_grad_()
    z_v = drawn.leaves[0].clone()
    outputs = mutual_attention(z_v, z_l, *drawn.leaves[2:], expr_offsets=drawn.expr_offsets, impl="triton")
    z_v.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(outputs, z_l, drawn.gradients)


@pytest.mark.parametrize("wanted", range(6))
def test_inputs_that_need_no_gradient_get_none(wanted: int) -> None:
    drawn = draw(SMALL, DEVICE)
    leaves = [t.detach().requires_grad_(index == wanted) for index, t in enumerate(drawn.leaves)]
    outputs = mutual_attention(
        *leaves, word_mask=drawn.word_mask, expr_offsets=drawn.expr_offsets, impl="triton"
    )
    torch.autograd.backward(outputs, drawn.gradients)
    assert [t.grad is not None for t in leaves] == [index == wanted for index in range(6)]
    gradient = leaves[wanted].grad
    assert gradient is not None
    assert torch.equal(gradient, public(SMALL)[2 + wanted])


@pytest.mark.parametrize("used", [0, 1])
def test_an_unused_output_has_no_part_in_the_gradient(used: int) -> None:
    drawn = draw(SMALL, DEVICE)
    results = []
    for impl in ("triton", "reference"):
        leaves = [t.detach().requires_grad_() for t in drawn.leaves]
        settings: dict[str, Any] = {"keep": "all", "expr_offsets": drawn.expr_offsets, "impl": impl}
        output = mutual_attention(*leaves, **settings)[used]
        grads = torch.autograd.grad(output, leaves, drawn.gradients[used], allow_unused=True)
        results.append([torch.zeros(1, device=DEVICE) if g is None else g for g in grads])
    for got, needed in zip(*results, strict=True):
        torch.testing.assert_close(got, needed.expand_as(got), rtol=1e-5, atol=2e-5)


def test_a_sum_backward_hands_in_an_expanded_gradient() -> None:
    drawn = draw(SMALL, DEVICE)
    results = []
    for impl in ("triton", "reference"):
        z_v = drawn.leaves[0].detach().requires_grad_()
        settings: dict[str, Any] = {"keep": "all", "expr_offsets": drawn.expr_offsets, "impl": impl}
        f_lav, f_val = mutual_attention(z_v, *drawn.leaves[1:], **settings)
        (f_lav.sum() + f_val.sum()).backward()
        results.append(z_v.grad)
    torch.testing.assert_close(*results, rtol=1e-5, atol=2e-5)


def test_no_expressions_at_all() -> None:
    case = Case(L_v=70, L_t=7, C=64, counts=(0, 0))
    with poisoned_memory():
        f_lav, f_val, *gradients = public(case)
    assert (f_lav.shape, f_val.shape) == ((0, 70, 64), (0, 7, 64))
    assert all((g == 0).all() for g in gradients)


def test_half_precision_parameters_get_gradients_of_their_dtype() -> None:
    drawn = draw(Case(L_v=37, L_t=7, C=64, dtype=fp16), DEVICE)
    leaves = [t.half().requires_grad_() for t in drawn.leaves]
    outputs = mutual_attention(*leaves, impl="triton")
    gradients = torch.autograd.grad(outputs, leaves, drawn.gradients)
    assert {t.dtype for t in (*outputs, *gradients)} == {fp16}


def test_autocast_leaves_the_operation_alone() -> None:
    plain = public(SMALL)
    with torch.autocast(DEVICE.type, dtype=torch.bfloat16):
        cast = public(SMALL)
    assert all(torch.equal(*pair) for pair in zip(plain, cast, strict=True))


@pytest.mark.parametrize(
    "case", [SMALL, Case(L_v=37, L_t=40, C=64, dtype=fp16, reading=Reading("columns"))], ids=named
)
def test_opcheck(case: Case) -> None:
    drawn = draw(case, DEVICE)
    leaves = [t.detach().requires_grad_() for t in drawn.leaves]
    arguments = (
        *leaves,
        drawn.word_mask,
        drawn.expr_offsets,
        torch.tensor(0.5),
        KEEPS[case.keep],
        1e-5,
        *switches(case.reading),
        "",
    )
    torch.library.opcheck(mutual_attention_fwd, arguments)


@pytest.mark.parametrize(("counts", "dynamic"), [(None, False), ((2, 0, 1), False), ((2, 0, 1), True)])
def test_torch_compile_takes_it_whole(counts: tuple[int, ...] | None, dynamic: bool) -> None:
    case = Case(L_v=70, L_t=7, C=64, images=3, counts=counts, padded=True)
    drawn = draw(case, DEVICE)

    def operation(leaves: list[Tensor]) -> tuple[Tensor, Tensor]:
        f_lav, f_val = mutual_attention(
            *leaves, word_mask=drawn.word_mask, expr_offsets=drawn.expr_offsets, impl="triton"
        )
        return f_lav * 2, f_val * 2

    compiled = torch.compile(operation, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    results = []
    for function in (operation, compiled):
        leaves = [t.detach().requires_grad_() for t in drawn.leaves]
        outputs = function(leaves)
        results.append([*outputs, *torch.autograd.grad(outputs, leaves, drawn.gradients)])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


def test_the_saved_gate_holds_a_bit_a_pair() -> None:
    drawn = draw(Case(L_v=70, L_t=40, C=64, images=2, padded=True), DEVICE)
    everything = (drawn.word_mask, None, torch.tensor(0.0), KEEPS["all"], 1e-5, *switches(AS_PRINTED), "")
    *_, bits, _, _ = mutual_attention_fwd(*drawn.leaves, *everything)
    assert bits.shape == (2, 70, 2)
    assert drawn.word_mask is not None
    assert torch.equal(unpack_gate(bits, 40), drawn.word_mask[:, None, :].expand(2, 70, 40))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case(L_v=5, L_t=129, C=64), "L_t = 129 words, and the Triton kernels take at most 128"),
        (Case(L_v=5, L_t=4, C=2048), "C = 2048 channels, and the Triton kernels take 16 to 1024"),
        (Case(L_v=5, L_t=4, C=8), "C = 8 channels, and the Triton kernels take 16 to 1024"),
        (Case(L_v=5, L_t=4, C=64, dtype=torch.float64), "float64, and the Triton kernels take float16"),
    ],
    ids=["words", "many channels", "few channels", "dtype"],
)
def test_a_named_impl_says_why_it_cannot(case: Case, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        public(case)


def test_fp32_over_many_words_is_refused_on_a_gpu_whose_compiler_spills(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(operator, "INTERPRETED", False)
    monkeypatch.setattr(operator, "why_not_here", lambda *_: None)
    monkeypatch.setattr(operator, "FP32_WORDS", 64)
    reason = operator.why_unsupported(DEVICE, fp32, 65, 256)
    assert reason is not None
    assert "L_t = 65 words in torch.float32, of which the Triton kernels take at most 64 on a GPU" in reason
    assert operator.why_unsupported(DEVICE, fp32, 64, 256) is None
    assert operator.why_unsupported(DEVICE, bf16, 65, 256) is None


def test_on_a_cpu_without_the_interpreter_it_says_what_is_missing() -> None:
    """In a process of its own: kernels are fixed as interpreted or compiled when they are imported."""
    code = (
        "import torch\n"
        "from maris_fast.kernels import mutual_attention\n"
        "z = torch.zeros(1, 4, 32)\n"
        "parameters = [torch.ones(32)] * 4\n"
        "print(mutual_attention(z, z, *parameters)[0].shape)\n"
        "mutual_attention(z, z, *parameters, impl='triton')\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == "torch.Size([1, 4, 32])"
    said = "Triton kernels run on CUDA, and the inputs are on cpu (or set TRITON_INTERPRET=1)"
    assert done.stderr.splitlines()[-1].endswith(f"UnsupportedError: {said}; use impl='reference' or 'auto'")
