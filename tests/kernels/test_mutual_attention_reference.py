"""The reference of mutual-aware attention against loops that share no code with it, and by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maris_fast.kernels import mutual_attention, mutual_attention_weights
from maris_fast.kernels.mutual_attention.reference import AS_PRINTED, Keep, Reading

EPS = 1e-5


def layer_norm_by_hand(row: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    mean = sum(row) / len(row)
    variance = sum((value - mean) ** 2 for value in row) / len(row)
    return (row - mean) / math.sqrt(variance + EPS) * weight + bias


def loops(
    z_v: np.ndarray,
    z_l: np.ndarray,
    parameters: list[np.ndarray],
    tau: float,
    keep: Keep,
    word_mask: np.ndarray,
    image_of: list[int],
    reading: Reading = AS_PRINTED,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Eqs. 3-5, one pixel and one word at a time, with the sigmoid itself."""
    E, L_t, C = z_l.shape
    L_v = z_v.shape[1]
    A = np.zeros((E, L_v, L_t))
    f_lav, f_val = np.zeros((E, L_v, C)), np.zeros((E, L_t, C))
    for e in range(E):
        tokens = z_v[image_of[e]]
        for i in range(L_v):
            weights, real = {}, {}
            for j in range(L_t):
                score = sum(tokens[i, c] * z_l[e, j, c] for c in range(C))
                if reading.score_scale == "channels":
                    score = score / C**0.5
                relevant = 1 / (1 + math.exp(-score)) >= tau
                wanted = {"relevant": relevant, "irrelevant": not relevant, "all": True}[keep]
                if word_mask[e, j]:
                    real[j] = math.exp(score)
                    if wanted:
                        weights[j] = real[j]
            if reading.empty_rows == "all" and not weights:
                weights = real
            for j, weight in weights.items():
                A[e, i, j] = weight / sum(weights.values())
            mixed = tokens[i] + sum(A[e, i, j] * z_l[e, j] for j in range(L_t))
            f_lav[e, i] = layer_norm_by_hand(mixed, parameters[0], parameters[1])
        for j in range(L_t):
            column = sum(A[e, i, j] for i in range(L_v))
            share = 1 / column if reading.language_norm == "columns" and column else 1
            mixed = z_l[e, j] + sum(share * A[e, i, j] * tokens[i] for i in range(L_v))
            f_val[e, j] = layer_norm_by_hand(mixed, parameters[2], parameters[3])
    return A, f_lav, f_val


def inputs(images: int, expressions: int, L_v: int, L_t: int, C: int) -> tuple[Tensor, Tensor, list[Tensor]]:
    generator = torch.Generator().manual_seed(images + 7 * expressions + 31 * L_v)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return draw(images, L_v, C), draw(expressions, L_t, C) / math.sqrt(C), [draw(C) for _ in range(4)]


@pytest.mark.parametrize("keep", ["relevant", "irrelevant", "all"])
@pytest.mark.parametrize("tau", [0.0, 0.5, 0.7])
@pytest.mark.parametrize("counts", [[1, 1], [3, 0, 1]])
def test_the_equations_pixel_by_pixel(keep: Keep, tau: float, counts: list[int]) -> None:
    z_v, z_l, parameters = inputs(len(counts), sum(counts), L_v=5, L_t=4, C=6)
    word_mask = torch.arange(4) < torch.tensor([4, 2, 1, 3])[: sum(counts), None]
    offsets = torch.tensor([0, *np.cumsum(counts)], dtype=torch.int32)
    image_of = [image for image, count in enumerate(counts) for _ in range(count)]
    arguments: dict[str, Any] = {
        "tau": tau,
        "keep": keep,
        "word_mask": word_mask,
        "expr_offsets": None if counts == [1, 1] else offsets,
    }

    A, f_lav, f_val = loops(
        z_v.numpy(), z_l.numpy(), [p.numpy() for p in parameters], tau, keep, word_mask.numpy(), image_of
    )

    result = mutual_attention(z_v, z_l, *parameters, **arguments, eps=EPS, impl="reference")
    np.testing.assert_allclose(result[0], f_lav, rtol=0, atol=1e-12)
    np.testing.assert_allclose(result[1], f_val, rtol=0, atol=1e-12)
    np.testing.assert_allclose(mutual_attention_weights(z_v, z_l, **arguments), A, rtol=0, atol=1e-12)


def one_pixel_two_words(keep: Keep, tau: float = 0.5) -> tuple[Tensor, Tensor, Tensor]:
    """One pixel (1, 0) and the words (log 2, 5), (-log 2, 7): S = log 2 and -log 2, sigmoid 2/3 and 1/3."""
    z_v = torch.tensor([[[1.0, 0.0]]], dtype=torch.float64)
    z_l = torch.tensor([[[math.log(2), 5.0], [-math.log(2), 7.0]]], dtype=torch.float64)
    one, zero = torch.ones(2, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    f_lav, f_val = mutual_attention(z_v, z_l, one, zero, one, zero, tau=tau, keep=keep, impl="reference")
    return mutual_attention_weights(z_v, z_l, tau=tau, keep=keep), f_lav, f_val


@pytest.mark.parametrize(
    ("keep", "tau", "weights"),
    [
        ("relevant", 0.5, [1.0, 0.0]),
        ("irrelevant", 0.5, [0.0, 1.0]),
        ("all", 0.5, [0.8, 0.2]),
        ("relevant", 0.0, [0.8, 0.2]),
        ("relevant", 0.3, [0.8, 0.2]),
        ("relevant", 0.7, [0.0, 0.0]),
        ("irrelevant", 0.7, [0.8, 0.2]),
        ("irrelevant", 0.0, [0.0, 0.0]),
    ],
)
def test_weights_by_hand(keep: Keep, tau: float, weights: list[float]) -> None:
    """softmax(log 2, -log 2) = (2, 1/2) / 2.5 = (0.8, 0.2)."""
    torch.testing.assert_close(
        one_pixel_two_words(keep, tau)[0], torch.tensor([[weights]], dtype=torch.float64)
    )


def test_a_score_at_the_threshold_is_relevant() -> None:
    z_v, z_l = torch.zeros(1, 1, 32), torch.ones(1, 1, 32)
    assert mutual_attention_weights(z_v, z_l, tau=0.5, keep="relevant").item() == 1
    assert mutual_attention_weights(z_v, z_l, tau=0.5, keep="irrelevant").item() == 0


def test_a_pixel_with_no_word_is_its_own_norm() -> None:
    """LN((1, 0)) is (1, -1) up to eps; nothing is NaN, forward or backward."""
    _, f_lav, f_val = one_pixel_two_words("relevant", tau=0.9)
    torch.testing.assert_close(f_lav, torch.tensor([[[1.0, -1.0]]], dtype=torch.float64), rtol=0, atol=1e-4)
    assert f_val.isfinite().all()

    z_v, z_l, parameters = inputs(2, 2, L_v=5, L_t=4, C=6)
    leaves = [t.requires_grad_() for t in (z_v, z_l, *parameters)]
    word_mask = torch.tensor([[False] * 4, [True] * 4])
    f_lav, f_val = mutual_attention(z_v, z_l, *parameters, word_mask=word_mask, impl="reference")
    for got, tokens, weight, bias in (
        (f_lav, z_v, parameters[0], parameters[1]),
        (f_val, z_l, parameters[2], parameters[3]),
    ):
        alone = torch.nn.functional.layer_norm(tokens[0], (6,), weight, bias, EPS)
        torch.testing.assert_close(got[0], alone)
    gradients = torch.autograd.grad(f_lav.square().sum() + f_val.square().sum(), leaves)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_padding_changes_nothing() -> None:
    z_v, z_l, parameters = inputs(2, 2, L_v=5, L_t=7, C=6)
    padded = z_l.clone()
    padded[:, 4:] = 1e4
    word_mask = torch.arange(7).expand(2, 7) < 4
    f_lav, f_val = mutual_attention(z_v, padded, *parameters, word_mask=word_mask, impl="reference")
    alone = mutual_attention(z_v, z_l[:, :4].contiguous(), *parameters, impl="reference")
    torch.testing.assert_close(f_lav, alone[0])
    torch.testing.assert_close(f_val[:, :4], alone[1])


def test_a_group_is_its_expressions_one_by_one() -> None:
    """Also the gradient: an image's tokens get the sum over all of its expressions."""
    z_v, z_l, parameters = inputs(3, 4, L_v=5, L_t=4, C=6)
    offsets = torch.tensor([0, 3, 3, 4], dtype=torch.int32)
    image_of = torch.tensor([0, 0, 0, 2])
    z_v.requires_grad_()
    grouped = mutual_attention(z_v, z_l, *parameters, expr_offsets=offsets, impl="reference")
    repeated = mutual_attention(z_v[image_of], z_l, *parameters, impl="reference")
    sums = []
    for got, needed in zip(grouped, repeated, strict=True):
        torch.testing.assert_close(got, needed)
    for pair in (grouped, repeated):
        sums.append(torch.autograd.grad(pair[0].square().sum() + pair[1].sin().sum(), z_v)[0])
    torch.testing.assert_close(*sums)
    assert (sums[0][1] == 0).all()


@pytest.mark.parametrize("keep", ["relevant", "irrelevant", "all"])
def test_gradients_are_the_derivatives(keep: Keep) -> None:
    z_v, z_l, parameters = inputs(2, 3, L_v=5, L_t=4, C=6)
    leaves = tuple(t.requires_grad_() for t in (z_v, z_l, *parameters))
    offsets = torch.tensor([0, 2, 3], dtype=torch.int32)
    word_mask = torch.arange(4) < torch.tensor([4, 2, 3])[:, None]

    # The gate is a step: a pair nearer to the threshold than gradcheck's step has no derivative.
    S = z_v[[0, 0, 1]] @ z_l.transpose(1, 2)
    assert (S - math.log(0.6 / 0.4)).abs().min() > 1e-3

    def operation(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return mutual_attention(
            *tensors, tau=0.6, keep=keep, word_mask=word_mask, expr_offsets=offsets, impl="reference"
        )

    assert torch.autograd.gradcheck(operation, leaves)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_inputs_are_computed_in_fp32_and_rounded_once(dtype: torch.dtype) -> None:
    z_v, z_l, parameters = inputs(2, 2, L_v=5, L_t=4, C=6)
    half = [t.to(dtype) for t in (z_v, z_l, *parameters)]
    wide = mutual_attention(*(t.float() for t in half), impl="reference")
    with torch.autocast("cpu", dtype=dtype):
        narrow = mutual_attention(*half, impl="reference")
    for got, needed in zip(narrow, wide, strict=True):
        assert got.dtype == dtype
        assert torch.equal(got, needed.to(dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z_v": torch.zeros(2, 5, 8)}, "of one C"),
        ({"z_l": torch.zeros(2, 4)}, "of one C"),
        ({"z_l": torch.zeros(2, 4, 6, dtype=torch.float16)}, "one floating-point dtype"),
        ({"z_v": torch.zeros(2, 5, 6).int(), "z_l": torch.zeros(2, 4, 6).int()}, "z_v is torch.int32"),
        ({"ln_l_weight": torch.ones(6).int()}, "ln_l_weight is torch.int32; expected a floating"),
        ({"z_l": torch.zeros(2, 4, 6, device="meta")}, "one device"),
        ({"word_mask": torch.ones(2, 4, dtype=torch.bool, device="meta")}, "word_mask on meta"),
        ({"expr_offsets": torch.zeros(3, dtype=torch.int32, device="meta")}, "expr_offsets on meta"),
        ({"ln_v_weight": torch.zeros(6, device="meta")}, "ln_v_weight on meta"),
        ({"z_l": torch.zeros(2, 0, 6)}, "at least one visual token, one word and one channel"),
        ({"z_l": torch.zeros(3, 4, 6)}, "give expr_offsets"),
        ({"ln_l_bias": torch.zeros(5)}, "ln_l_bias is \\(5,\\), expected \\(6,\\)"),
        ({"tau": 1.0}, "0 <= tau < 1"),
        ({"tau": -0.1}, "0 <= tau < 1"),
        ({"tau": math.nan}, "0 <= tau < 1"),
        ({"keep": "some"}, "relevant, irrelevant, all"),
        ({"impl": "cuda"}, "auto, triton, reference"),
        ({"word_mask": torch.ones(2, 5, dtype=torch.bool)}, "expected bool \\(2, 4\\)"),
        ({"word_mask": torch.ones(2, 4)}, "expected bool \\(2, 4\\)"),
        ({"expr_offsets": torch.tensor([0, 2], dtype=torch.int32)}, "expected int32 \\(3,\\)"),
        ({"expr_offsets": torch.tensor([0, 1, 2])}, "expected int32 \\(3,\\)"),
        ({"expr_offsets": torch.tensor([0, 1, 3], dtype=torch.int32)}, "from 0 to 3; expected from 0 to 2"),
        ({"expr_offsets": torch.tensor([1, 1, 2], dtype=torch.int32)}, "from 1 to 2; expected from 0 to 2"),
        ({"expr_offsets": torch.tensor([0, 3, 2], dtype=torch.int32)}, "never fall"),
    ],
)
def test_bad_input_says_what_came_and_what_is_needed(change: dict[str, Any], message: str) -> None:
    arguments: dict[str, Any] = {
        "z_v": torch.zeros(2, 5, 6),
        "z_l": torch.zeros(2, 4, 6),
        **{name: torch.zeros(6) for name in ("ln_v_weight", "ln_v_bias", "ln_l_weight", "ln_l_bias")},
        **change,
    }
    with pytest.raises(ValueError, match=message):
        mutual_attention(**arguments)
