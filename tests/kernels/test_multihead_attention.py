"""Multi-head attention: loops against the reference, the reference against PyTorch's own."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maris_fast.kernels import UnsupportedError, multihead_attention
from maris_fast.kernels.multihead_attention import chosen_impl


def inputs(
    L_q: int = 5, L_k: int = 7, heads: int = 2, d: int = 4, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(L_q + L_k)
    q, k, v = (
        torch.randn(3, length, heads, d, generator=generator, dtype=torch.float64).to(dtype)
        for length in (L_q, L_k, L_k)
    )
    return q, k, v, torch.arange(L_k) < torch.tensor([L_k, 1, 3])[:, None]


def loops(q: np.ndarray, k: np.ndarray, v: np.ndarray, key_mask: np.ndarray) -> np.ndarray:
    """softmax(Q Kᵀ / √d) V, one query and one head at a time."""
    out = np.zeros_like(q)
    for b, i, h in np.ndindex(q.shape[:3]):
        keys = [j for j in range(k.shape[1]) if key_mask[b, j]]
        weights = [math.exp(float(q[b, i, h] @ k[b, j, h]) / math.sqrt(q.shape[3])) for j in keys]
        for j, weight in zip(keys, weights, strict=True):
            out[b, i, h] += weight / sum(weights) * v[b, j, h]
    return out


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_equation_query_by_query(impl: Any, masked: bool) -> None:
    q, k, v, key_mask = inputs()
    needed = loops(
        q.numpy(), k.numpy(), v.numpy(), (key_mask if masked else torch.ones_like(key_mask)).numpy()
    )
    got = multihead_attention(q, k, v, key_mask if masked else None, impl=impl)
    assert got.shape == q.shape
    np.testing.assert_allclose(got, needed, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_sdpa_has_the_references_values_and_gradients(dtype: torch.dtype, masked: bool) -> None:
    """Held to twice the reference's own distance from fp64, plus one rounding of the largest value."""
    q, k, v, key_mask = inputs(L_q=37, L_k=20, heads=4, d=16, dtype=dtype)

    def run(impl: Any, inside: torch.dtype) -> list[Tensor]:
        leaves = [t.to(inside).detach().clone().requires_grad_() for t in (q, k, v)]
        out = multihead_attention(leaves[0], leaves[1], leaves[2], key_mask if masked else None, impl)
        weight = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
        return [out, *torch.autograd.grad(out, leaves, weight.to(inside))]

    for truth, own, sdpa in zip(
        run("reference", torch.float64), run("reference", dtype), run("sdpa", dtype), strict=True
    ):
        assert sdpa.dtype == dtype
        allowed = 2 * ((own - truth).abs().max() + torch.finfo(dtype).eps * truth.abs().max())
        assert (sdpa - truth).abs().max() <= allowed


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
def test_gradients_are_the_derivatives(impl: Any) -> None:
    q, k, v, key_mask = inputs()
    leaves = tuple(t.requires_grad_() for t in (q, k, v))
    assert torch.autograd.gradcheck(lambda q, k, v: multihead_attention(q, k, v, key_mask, impl), leaves)


@pytest.mark.parametrize("impl", ["reference", "sdpa"])
def test_a_masked_key_changes_nothing(impl: Any) -> None:
    q, k, v, key_mask = inputs()
    loud_k, loud_v = (t.masked_fill(~key_mask[:, :, None, None], 1e3) for t in (k, v))
    torch.testing.assert_close(
        multihead_attention(q, loud_k, loud_v, key_mask, impl), multihead_attention(q, k, v, key_mask, impl)
    )


def test_xformers_asked_for_by_name_on_cpu_raises() -> None:
    q, k, v, _ = inputs(dtype=torch.float32)
    with pytest.raises(
        UnsupportedError, match="no attention for cpu tensors; use impl='sdpa' or 'reference'"
    ):
        multihead_attention(q, k, v, impl="xformers")


def test_auto_on_cpu_is_pytorchs_own() -> None:
    assert chosen_impl(torch.device("cpu"), torch.float32) == "sdpa"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("masked", [False, True])
def test_xformers_has_the_references_values(masked: bool) -> None:
    q, k, v, key_mask = (t.cuda() for t in inputs(L_q=64, L_k=20, heads=4, d=32, dtype=torch.float16))
    mask = key_mask if masked else None
    got = multihead_attention(q, k, v, mask, impl="xformers")
    torch.testing.assert_close(got, multihead_attention(q, k, v, mask, impl="reference"), rtol=0, atol=2e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(3, 5, 8)}, "needed are \\[B, L_q, heads, d\\]"),
        ({"k": torch.zeros(3, 6, 2, 4)}, "twice \\[B, L_k, heads, d\\]"),
        ({"q": torch.zeros(2, 5, 2, 4)}, "twice \\[B, L_k, heads, d\\]"),
        ({"key_mask": torch.ones(3, 5, dtype=torch.bool)}, "needed is bool \\(3, 7\\)"),
        ({"key_mask": torch.ones(3, 7)}, "needed is bool \\(3, 7\\)"),
        ({"impl": "flash"}, "auto, xformers, sdpa, reference"),
    ],
)
def test_bad_input_says_what_came_and_what_is_needed(change: dict[str, Any], message: str) -> None:
    q, k, v, _ = inputs(dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        multihead_attention(**{"q": q, "k": k, "v": v, **change})
