"""A threshold that a schedule changes: correct at each step, and never a reason to recompile."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from maris_fast.config import ModelSettings
from maris_fast.kernels import mutual_attention
from maris_fast.kernels.mutual_attention.operator import INTERPRETED
from maris_fast.model import Maris

pytestmark = pytest.mark.interpreter

DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
RAMP = [0.09 * step for step in range(10)]


@pytest.fixture(autouse=True)
def _forget_graphs() -> None:
    torch._dynamo.reset()


@pytest.fixture
def counter() -> Any:
    """A backend that counts what it is asked to compile."""
    from torch._dynamo.testing import CompileCounterWithBackend  # takes seconds; import only where needed

    return CompileCounterWithBackend("aot_eager")


@pytest.mark.parametrize("impl", ["reference", "triton"])
def test_a_ramp_of_ten_thresholds_compiles_once_and_each_counts(impl: Any, counter: Any) -> None:
    torch.manual_seed(0)
    z_v, z_l = torch.randn(2, 20, 32, device=DEVICE), torch.randn(2, 5, 32, device=DEVICE)
    leaves = [z_v, z_l / 4, *(torch.randn(32, device=DEVICE) for _ in range(4))]
    for leaf in leaves:
        leaf.requires_grad_()

    def step(tau: torch.Tensor | float) -> list[torch.Tensor]:
        return list(mutual_attention(*leaves, tau=tau, impl=impl))

    compiled = torch.compile(step, fullgraph=True, dynamic=False, backend=counter)
    before = None
    for tau in RAMP:
        got, needed = compiled(torch.tensor(tau)), step(tau)
        gradients = (
            torch.autograd.grad(sum(out.sum() for out in outputs), leaves) for outputs in (got, needed)
        )
        assert all(torch.equal(*pair) for pair in zip(got, needed, strict=True))
        assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
        assert before is None or not torch.equal(before, needed[0])
        before = needed[0]
    assert counter.frame_count == 1


def test_a_compiled_model_stays_compiled_while_its_threshold_ramps(counter: Any) -> None:
    torch.manual_seed(0)
    settings = ModelSettings(
        channels=32, heads=4, mutual_attention_impl="triton", attention_impl="sdpa", decoder_blocks=1
    )
    model = Maris(settings, visual_channels=16, text_channels=16).to(DEVICE).eval()
    features = [torch.randn(1, 4, 5, 16, device=DEVICE) for _ in range(3)]
    words = torch.randn(2, 3, 16, device=DEVICE)
    word_mask = torch.ones(2, 3, dtype=torch.bool, device=DEVICE)
    expr_offsets = torch.tensor([0, 2], dtype=torch.int32, device=DEVICE)
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=counter)
    outputs, compilations = [], []
    for tau in RAMP:
        model.tau = tau
        assert model.tau == tau
        outputs.append(compiled(features, words, word_mask, expr_offsets).logits)
        compilations.append(counter.frame_count)
        torch.testing.assert_close(outputs[-1], model(features, words, word_mask, expr_offsets).logits)
    assert not torch.equal(outputs[0], outputs[-1])
    # Dynamo passes the first graph to the backend again when it has seen which numbers stay numbers.
    assert compilations[0] <= 2
    assert compilations[-1] == compilations[0]


@pytest.mark.parametrize(
    ("tau", "message"),
    [
        (torch.tensor([0.5]), r"expected a number, or a floating-point tensor \(\) on the CPU"),
        (torch.tensor(1), r"tau is torch.int64 \(\) on cpu"),
        (torch.tensor(0.5, device="meta"), r"on meta; expected a number"),
        (torch.tensor(1.0), "tau = 1.0; expected 0 <= tau < 1"),
        (torch.tensor(torch.nan), "tau = nan; expected 0 <= tau < 1"),
    ],
)
def test_a_threshold_tensor_that_is_none_is_refused(tau: torch.Tensor, message: str) -> None:
    z = torch.randn(1, 4, 8)
    with pytest.raises(ValueError, match=message):
        mutual_attention(z, z, *(torch.ones(8),) * 4, tau=tau)
