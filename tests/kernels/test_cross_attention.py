"""Attention of many queries to few keys: both orders of its products compute the same operation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from maris_fast.config import ModelSettings
from maris_fast.kernels import cross_attention
from maris_fast.kernels.cross_attention import IMPLEMENTATIONS, fewer_products
from maris_fast.kernels.cross_attention.parity import Case, draw, failures, run
from maris_fast.model import Maris

fp64 = torch.float64


@given(
    E=st.integers(1, 3),
    L_q=st.integers(1, 9),
    L_k=st.integers(1, 6),
    heads=st.integers(1, 3),
    d=st.integers(1, 5),
    C=st.integers(1, 7),
    masked=st.booleans(),
)
def test_folded_is_the_equation_forward_and_backward(**sizes: Any) -> None:
    drawn = draw(Case(**sizes, dtype=fp64))
    folded = run("folded", drawn)
    for name, needed in run("projected", drawn).items():
        torch.testing.assert_close(folded[name], needed, rtol=1e-9, atol=1e-11)


def test_a_masked_key_is_as_one_that_is_not_there() -> None:
    leaves = draw(Case(E=1, dtype=fp64)).leaves
    key_mask = torch.tensor([[True, False, True, True, False]])
    fewer = {**leaves, "k": leaves["k"][:, key_mask[0]], "v": leaves["v"][:, key_mask[0]]}
    masked = cross_attention(**leaves, key_mask=key_mask, impl="folded")
    torch.testing.assert_close(masked, cross_attention(**fewer, impl="folded"))
    changed = {**leaves, "k": torch.where(key_mask[..., None, None], leaves["k"], 1e6)}
    torch.testing.assert_close(masked, cross_attention(**changed, key_mask=key_mask, impl="folded"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_folded_is_no_further_from_fp64_than_the_order_as_written(dtype: torch.dtype) -> None:
    case = Case(E=4, L_q=300, L_k=12, heads=8, d=8, C=64, dtype=dtype)
    assert failures("folded", case) == []


def test_autocast_does_not_narrow_what_is_folded() -> None:
    drawn = draw(Case())
    plain = cross_attention(**drawn.leaves, key_mask=drawn.key_mask, impl="folded")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = cross_attention(**drawn.leaves, key_mask=drawn.key_mask, impl="folded")
    assert torch.equal(cast, plain)


def taken_by_auto(leaves: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """The implementation that a call without ``impl`` ends up in, where nothing is proven."""
    taken: list[str] = []
    for name in IMPLEMENTATIONS:
        monkeypatch.setitem(IMPLEMENTATIONS, name, lambda *_, name=name, **__: taken.append(name))
    cross_attention(**leaves)
    (one,) = taken
    return one


@pytest.mark.parametrize("L_k", [1, 5, 30])
@pytest.mark.parametrize("L_q", [3, 200])
@pytest.mark.parametrize("heads", [1, 8])
def test_auto_takes_the_order_that_pytorch_counts_fewer_flops_in(
    L_q: int, L_k: int, heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaves = draw(Case(E=1, L_q=L_q, L_k=L_k, heads=heads, d=64 // heads, C=64)).leaves
    counts = {}
    impl: Any
    for impl in ("projected", "folded"):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            cross_attention(**leaves, impl=impl, attention_impl="sdpa")
        counts[impl] = counter.get_total_flops()
    fewest = min(counts, key=lambda impl: counts[impl])
    assert taken_by_auto(leaves, monkeypatch) == fewest
    assert fewer_products(L_q, L_k, heads, 64 // heads, 64) == (fewest == "folded")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_auto_folds_nothing_in_16_bits(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = draw(Case(L_q=200, L_k=2, dtype=dtype)).leaves
    assert taken_by_auto(leaves, monkeypatch) == "projected"


@pytest.mark.slow
def test_torch_compile_takes_it_whole_at_any_number_of_words() -> None:
    compiled = torch.compile(cross_attention, fullgraph=True, dynamic=True, backend="aot_eager")
    for L_k in (5, 7, 40):
        drawn = draw(Case(L_k=L_k))
        needed = cross_attention(**drawn.leaves, key_mask=drawn.key_mask)
        torch.testing.assert_close(compiled(**drawn.leaves, key_mask=drawn.key_mask), needed)


@pytest.mark.parametrize(
    "changes",
    [{}, {"decoder": "sam"}, {"decoder_positions": "sine", "decoder_norm": "post"}],
    ids=str,
)
def test_a_model_computes_the_same_either_way_from_the_same_weights(changes: dict[str, Any]) -> None:
    results = []
    for impl in ("projected", "folded"):
        torch.manual_seed(0)
        settings = ModelSettings.model_validate(
            {"channels": 16, "heads": 2, "cross_attention_impl": impl, "keep": "all", **changes}
        )
        model = Maris(settings, visual_channels=6, text_channels=5).double()
        features = [torch.randn(2, 4, 3, 6, dtype=fp64) for _ in range(3)]
        words = torch.randn(3, 4, 5, dtype=fp64)
        word_mask = torch.tensor([[True] * 4, [True, True, False, False], [True] * 4])
        said = model(features, words, word_mask, torch.tensor([0, 2, 3], dtype=torch.int32))
        said.logits.square().mean().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        results.append({"logits": said.logits, **gradients})
    projected, folded = results
    assert any("cross.query" in name or "image_to_token.query" in name for name in projected)
    assert projected.keys() == folded.keys()
    for name, needed in projected.items():
        torch.testing.assert_close(folded[name], needed, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 12)}, "expected \\[E, L_q, C\\]"),
        ({"k": torch.zeros(3, 6, 2, 4)}, "twice \\[E, L_k, heads, d\\]"),
        ({"x": torch.zeros(2, 20, 12)}, "expected \\[E, L_q, C\\]"),
        (
            {"W_q": torch.zeros(8, 13)},
            "W_q is \\(8, 13\\); expected \\(8, 12\\), as x is 12 wide and k has 2",
        ),
        ({"b_o": torch.zeros(8)}, "b_o is \\(8,\\); expected \\(12,\\)"),
        ({"key_mask": torch.ones(3, 5)}, "expected bool \\(3, 5\\)"),
        ({"impl": "fused"}, "impl = 'fused'; known are auto, projected, folded, triton"),
    ],
)
def test_bad_input_says_what_came_and_what_is_needed(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cross_attention(**{**draw(Case()).leaves, **change})
