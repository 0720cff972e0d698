"""Attention of many queries to few keys: both orders of its products are one operation."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from maris_fast.config import ModelSettings
from maris_fast.kernels import cross_attention
from maris_fast.kernels.cross_attention import chosen_impl, fewer_products
from maris_fast.model import Maris

NAMES = ("x", "k", "v", "W_q", "b_q", "W_o", "b_o")


def draw(
    E: int = 3,
    L_q: int = 20,
    L_k: int = 5,
    heads: int = 2,
    d: int = 4,
    C: int = 12,
    *,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[dict[str, Tensor], Tensor]:
    """Inputs that need gradients, and a mask that keeps from one key of a row up to all of them."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {
        "x": (E, L_q, C),
        "k": (E, L_k, heads, d),
        "v": (E, L_k, heads, d),
        "W_q": (heads * d, C),
        "b_q": (heads * d,),
        "W_o": (C, heads * d),
        "b_o": (C,),
    }
    drawn = {
        name: torch.randn(size, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
        for name, size in sizes.items()
    }
    counting = torch.linspace(1, L_k, E).round()
    return drawn, torch.arange(L_k) < counting[:, None]


def both_ways(drawn: dict[str, Tensor], key_mask: Tensor | None, **settings: Any) -> list[Tensor]:
    """The output, and the gradients of all inputs from a fixed one of the output."""
    out = cross_attention(**drawn, key_mask=key_mask, **settings)
    gradient = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [out, *torch.autograd.grad(out, list(drawn.values()), gradient.to(out.dtype))]


@given(
    E=st.integers(1, 3),
    L_q=st.integers(1, 9),
    L_k=st.integers(1, 6),
    heads=st.integers(1, 3),
    d=st.integers(1, 5),
    C=st.integers(1, 7),
    masked=st.booleans(),
)
def test_folded_is_the_equation_forward_and_backward(
    E: int, L_q: int, L_k: int, heads: int, d: int, C: int, masked: bool
) -> None:
    drawn, key_mask = draw(E, L_q, L_k, heads, d, C)
    mask = key_mask if masked else None
    truth = both_ways(drawn, mask, impl="projected", attention_impl="reference")
    for name, got, needed in zip(("out", *NAMES), both_ways(drawn, mask, impl="folded"), truth, strict=True):
        torch.testing.assert_close(
            got, needed, rtol=1e-9, atol=1e-11, msg=lambda said, n=name: f"{n}: {said}"
        )


def test_a_masked_key_is_as_one_that_is_not_there() -> None:
    drawn, _ = draw(E=1)
    key_mask = torch.tensor([[True, False, True, True, False]])
    fewer = {**drawn, "k": drawn["k"][:, key_mask[0]], "v": drawn["v"][:, key_mask[0]]}
    masked = cross_attention(**drawn, key_mask=key_mask, impl="folded")
    torch.testing.assert_close(masked, cross_attention(**fewer, impl="folded"))
    changed = {**drawn, "k": torch.where(key_mask[..., None, None], drawn["k"], 1e6)}
    torch.testing.assert_close(masked, cross_attention(**changed, key_mask=key_mask, impl="folded"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_folded_is_no_further_from_fp64_than_the_order_as_written(dtype: torch.dtype) -> None:
    """Up to a factor of two, and one rounding of the largest value."""
    sizes = {"E": 4, "L_q": 300, "L_k": 12, "heads": 8, "d": 8, "C": 64}
    drawn, key_mask = draw(**sizes, dtype=dtype)
    for name in ("W_q", "W_o"):
        drawn[name] = (drawn[name] / 8).detach().requires_grad_()
    wide = {name: t.detach().double().requires_grad_() for name, t in drawn.items()}
    truth = both_ways(wide, key_mask, impl="projected", attention_impl="reference")
    written = both_ways(drawn, key_mask, impl="projected", attention_impl="reference")
    folded = both_ways(drawn, key_mask, impl="folded")
    for name, needed, plain, got in zip(("out", *NAMES), truth, written, folded, strict=True):
        assert got.dtype == dtype
        rounding = torch.finfo(dtype).eps * needed.abs().max()
        allowed = 2 * ((plain - needed).abs().max() + rounding)
        assert (got - needed).abs().max() <= allowed, name


def test_autocast_does_not_narrow_what_is_folded() -> None:
    drawn, key_mask = draw(dtype=torch.float32)
    plain = cross_attention(**drawn, key_mask=key_mask, impl="folded")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = cross_attention(**drawn, key_mask=key_mask, impl="folded")
    assert torch.equal(cast, plain)


@pytest.mark.parametrize("L_k", [1, 5, 30])
@pytest.mark.parametrize("L_q", [3, 200])
@pytest.mark.parametrize("heads", [1, 8])
def test_auto_takes_the_order_that_pytorch_counts_fewer_flops_in(L_q: int, L_k: int, heads: int) -> None:
    drawn, _ = draw(E=1, L_q=L_q, L_k=L_k, heads=heads, d=64 // heads, C=64, dtype=torch.float32)
    counts = {}
    for impl in ("projected", "folded"):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            cross_attention(**drawn, impl=impl, attention_impl="sdpa")  # type: ignore[arg-type]
        counts[impl] = counter.get_total_flops()
    fewest = min(counts, key=lambda impl: counts[impl])
    assert chosen_impl(drawn["x"], drawn["k"]) == fewest
    assert fewer_products(L_q, L_k, heads, 64 // heads, 64) == (fewest == "folded")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_auto_folds_nothing_in_16_bits(dtype: torch.dtype) -> None:
    drawn, _ = draw(L_q=200, L_k=2, dtype=dtype)
    assert chosen_impl(drawn["x"], drawn["k"]) == "projected"


def test_torch_compile_takes_it_whole_at_any_number_of_words() -> None:
    compiled = torch.compile(cross_attention, fullgraph=True, dynamic=True, backend="aot_eager")
    for L_k in (5, 7, 40):
        drawn, key_mask = draw(L_k=L_k, dtype=torch.float32)
        torch.testing.assert_close(
            compiled(**drawn, key_mask=key_mask), cross_attention(**drawn, key_mask=key_mask)
        )


@pytest.mark.parametrize(
    "changes",
    [{}, {"decoder": "sam"}, {"decoder_positions": "sine", "decoder_norm": "post"}],
    ids=str,
)
def test_a_model_computes_the_same_either_way_from_the_same_weights(changes: dict[str, Any]) -> None:
    results = []
    for impl in ("projected", "folded"):
        torch.manual_seed(0)
        settings = ModelSettings(channels=16, heads=2, cross_attention_impl=impl, keep="all", **changes)
        model = Maris(settings, visual_channels=6, text_channels=5).double()
        features = [torch.randn(2, 4, 3, 6, dtype=torch.float64) for _ in range(3)]
        words = torch.randn(3, 4, 5, dtype=torch.float64)
        word_mask = torch.tensor([[True] * 4, [True, True, False, False], [True] * 4])
        said = model(features, words, word_mask, torch.tensor([0, 2, 3], dtype=torch.int32))
        said.logits.square().mean().backward()
        gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
        results.append({"logits": said.logits, **gradients})
    projected, folded = results
    assert projected.keys() == folded.keys()
    for name, needed in projected.items():
        torch.testing.assert_close(folded[name], needed, rtol=1e-8, atol=1e-12)
    assert any("cross.query" in name or "image_to_token.query" in name for name in projected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(3, 12)}, "needed are \\[E, L_q, C\\]"),
        ({"k": torch.zeros(3, 6, 2, 4)}, "twice \\[E, L_k, heads, d\\]"),
        ({"x": torch.zeros(2, 20, 12)}, "needed are \\[E, L_q, C\\]"),
        (
            {"W_q": torch.zeros(8, 13)},
            "W_q is \\(8, 13\\); needed is \\(8, 12\\), as x is 12 wide and k has 2",
        ),
        ({"b_o": torch.zeros(8)}, "b_o is \\(8,\\); needed is \\(12,\\)"),
        ({"key_mask": torch.ones(3, 5)}, "needed is bool \\(3, 5\\)"),
        ({"impl": "fused"}, "impl = 'fused'; known are auto, projected, folded"),
    ],
)
def test_bad_input_says_what_came_and_what_is_needed(change: dict[str, Any], message: str) -> None:
    drawn, _ = draw()
    with pytest.raises(ValueError, match=message):
        cross_attention(**{**drawn, **change})
