"""The Triton kernels of cross-attention, on a GPU or in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maris_fast.kernels import UnsupportedError, cross_attention
from maris_fast.kernels.cross_attention.folded import fold
from maris_fast.kernels.cross_attention.operator import INTERPRETED, cross_attention_fwd
from maris_fast.kernels.cross_attention.parity import Case, draw, failures, run

pytestmark = pytest.mark.interpreter

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROOT = Path(__file__).parents[2]
fp16, fp32, bf16 = torch.float16, torch.float32, torch.bfloat16

CASES = [
    # Lengths that tiles don't divide, keys that don't fill a block, channels and heads of any width.
    Case(E=1, L_q=1, L_k=1, heads=1, d=16, C=16),
    Case(E=2, L_q=37, L_k=5, heads=8, d=8, C=64),
    Case(E=3, L_q=100, L_k=11, heads=2, d=32, C=64, masked=False),
    Case(E=3, L_q=64, L_k=16, heads=4, d=8, C=33),
    Case(E=2, L_q=129, L_k=17, heads=3, d=5, C=48),
    Case(E=2, L_q=70, L_k=33, heads=8, d=32, C=256),
    Case(E=2, L_q=70, L_k=64, heads=2, d=24, C=200),
    Case(E=5, L_q=1024, L_k=9, heads=2, d=32, C=64),
]


def named(case: Case) -> str:
    told = {name: value for name, value in vars(case).items() if name not in ("dtype", "seed")}
    return "-".join(f"{name}:{value}" for name, value in told.items())


@pytest.mark.skipif(not INTERPRETED, reason="on a GPU the kernels take 16 bits")
@pytest.mark.parametrize("case", CASES, ids=named)
def test_parity_in_fp32(case: Case) -> None:
    assert failures("triton", case, DEVICE) == []


@pytest.mark.parametrize("case", CASES[1:5], ids=named)
def test_parity_in_fp16(case: Case) -> None:
    assert failures("triton", replace(case, dtype=fp16), DEVICE) == []


@pytest.mark.parametrize("case", CASES, ids=named)
def test_parity_in_bf16(case: Case) -> None:
    assert failures("triton", replace(case, dtype=bf16), DEVICE) == []


SMALL = Case(E=3, L_q=70, L_k=7, heads=2, d=8, C=32, dtype=fp16)


@pytest.mark.parametrize("times", [2, pytest.param(1000, marks=pytest.mark.gpu)])
def test_runs_are_bitwise_equal(times: int) -> None:
    if times > 2 and INTERPRETED:
        pytest.skip("the interpreter runs one program after the other")
    drawn = draw(SMALL, DEVICE)
    first = run("triton", drawn)
    for _ in range(times - 1):
        again = run("triton", drawn)
        assert all(torch.equal(first[name], again[name]) for name in first)


def operands() -> tuple[Tensor, ...]:
    """The operator's inputs for SMALL."""
    drawn = draw(SMALL, DEVICE)
    leaves = drawn.leaves
    K, c, V = fold(*(leaves[name] for name in ("k", "v", "W_q", "b_q", "W_o")), drawn.key_mask)
    own = (leaves["x"], K.to(fp16), c, V.to(fp16), leaves["b_o"])
    return tuple(t.detach().requires_grad_() for t in own)


def test_scores_whose_exponential_overflows_give_finite_results() -> None:
    x, K, c, V, b_o = (t.detach() for t in operands())
    K = K * 1000
    S = torch.einsum("eqc,ehkc->ehqk", x.double(), K.double()) + c.double()[:, :, None, :]
    assert S.max() > 1000
    needed = torch.einsum("ehqk,ehkc->eqc", S.softmax(3), V.double()) + b_o.double()
    got = cross_attention_fwd(x, K, c, V, b_o)
    torch.testing.assert_close(got.double(), needed, rtol=2e-3, atol=5e-3)


def test_views_of_wider_tensors_and_an_expanded_gradient_are_taken() -> None:
    drawn = draw(SMALL, DEVICE)
    wider = torch.randn(3, 70, 40, generator=torch.Generator().manual_seed(2)).to(DEVICE, fp16)
    gradients = []
    for impl in ("triton", "folded"):
        x = wider[..., 3:35].detach().requires_grad_()
        leaves = {**drawn.leaves, "x": x}
        cross_attention(**leaves, key_mask=drawn.key_mask, impl=impl).sum().backward()  # type: ignore[arg-type]
        assert x.grad is not None
        gradients.append(x.grad)
    torch.testing.assert_close(*gradients, rtol=1e-2, atol=1e-3)


def test_no_expressions_at_all() -> None:
    drawn = draw(replace(SMALL, E=0, masked=False), DEVICE)
    got = run("triton", drawn)
    assert got["out"].shape == (0, 70, 32)
    assert all((got[f"d {name}"] == 0).all() for name in ("W_q", "b_q", "W_o", "b_o"))


def test_opcheck() -> None:
    torch.library.opcheck(cross_attention_fwd, operands())


def test_torch_compile_takes_it_whole() -> None:
    drawn = draw(SMALL, DEVICE)
    compiled = torch.compile(cross_attention, fullgraph=True, dynamic=True, backend="aot_eager")
    results = []
    for function in (cross_attention, compiled):
        out = function(**drawn.leaves, key_mask=drawn.key_mask, impl="triton")
        results.append([out, *torch.autograd.grad(out, list(drawn.leaves.values()), drawn.gradient)])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Case(L_k=65, C=64, dtype=fp16), "65 keys, and the Triton kernels take at most 64"),
        (Case(C=512, dtype=fp16), "C = 512 channels, and the Triton kernels take 16 to 256"),
        (Case(C=8, dtype=fp16), "C = 8 channels, and the Triton kernels take 16 to 256"),
        (Case(C=64, dtype=torch.float64), "float64, and the Triton kernels take float16"),
    ],
    ids=["keys", "many channels", "few channels", "dtype"],
)
def test_a_named_impl_says_why_it_cannot(case: Case, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        run("triton", draw(case, DEVICE))


@pytest.mark.process
def test_on_a_cpu_without_the_interpreter_it_says_what_is_missing() -> None:
    """In a process of its own: kernels are fixed as interpreted or compiled when they are imported."""
    code = (
        "import torch\n"
        "from maris_fast.kernels.cross_attention.parity import Case, draw, run\n"
        "run('triton', draw(Case(C=32, dtype=torch.float16)))\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    said = "Triton kernels run on CUDA, and the inputs are on cpu (or set TRITON_INTERPRET=1)"
    needed = f"UnsupportedError: {said}; use impl='folded', 'projected' or 'auto'"
    assert done.stderr.splitlines()[-1].endswith(needed)
