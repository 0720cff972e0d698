"""Readings of eqs. 3-5 other than as printed: the reference against loops, by hand, and broken on purpose."""

from __future__ import annotations

import math
from itertools import product
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maris_fast.kernels import Reading, mutual_attention, mutual_attention_weights
from maris_fast.kernels.mutual_attention import reference
from maris_fast.kernels.mutual_attention.reference import AS_PRINTED
from tests.kernels.conftest import MutantOf
from tests.kernels.test_mutual_attention_reference import EPS, inputs, loops

READINGS = [
    Reading(*values) for values in product(("none", "columns"), ("none", "all"), ("none", "channels"))
]
OTHERS = [reading for reading in READINGS if reading != AS_PRINTED]
COUNTS, TAU = [3, 0, 1], 0.65


def case() -> tuple[Tensor, Tensor, list[Tensor], Tensor, Tensor]:
    """Groups of 3, 0 and 1; padding of 0 to all words; pixels that keep no word, a word kept by none."""
    z_v, z_l, parameters = inputs(len(COUNTS), sum(COUNTS), L_v=5, L_t=4, C=6)
    z_l[3, 2] = -z_v[2].mean(0)
    word_mask = torch.arange(4) < torch.tensor([4, 2, 0, 3])[:, None]
    return z_v, z_l, parameters, word_mask, torch.tensor([0, 3, 3, 4], dtype=torch.int32)


def wrong(module: ModuleType, reading: Reading, keep: Any) -> float:
    """The largest difference between a reference and the loops."""
    z_v, z_l, parameters, word_mask, offsets = case()
    settings: dict[str, Any] = {"tau": TAU, "keep": keep, "word_mask": word_mask, "expr_offsets": offsets}
    reading = module.Reading(*reading)
    got = [
        module.mutual_attention_weights_reference(z_v, z_l, **settings, reading=reading),
        *module.mutual_attention_reference(z_v, z_l, *parameters, **settings, eps=EPS, reading=reading),
    ]
    needed = loops(
        z_v.numpy(),
        z_l.numpy(),
        [parameter.numpy() for parameter in parameters],
        TAU,
        keep,
        word_mask.numpy(),
        [0, 0, 0, 2],
        reading,
    )
    return float(np.max([np.abs(a.numpy() - b).max() for a, b in zip(got, needed, strict=True)]))


@pytest.mark.parametrize("keep", ["relevant", "irrelevant", "all"])
@pytest.mark.parametrize("reading", OTHERS, ids=str)
def test_each_reading_pixel_by_pixel(reading: Reading, keep: str) -> None:
    assert wrong(reference, reading, keep) < 1e-12


def test_the_case_has_empty_rows_and_an_empty_column_and_readings_differ() -> None:
    z_v, z_l, parameters, word_mask, offsets = case()
    settings: dict[str, Any] = {"tau": TAU, "word_mask": word_mask, "expr_offsets": offsets}
    A = mutual_attention_weights(z_v, z_l, **settings)
    real_words, some_words = word_mask.any(1), A.sum(2) > 0
    assert (~some_words[real_words]).any()
    assert ((A.sum(1) == 0) & word_mask).any()
    outputs = [
        torch.cat([t.ravel() for t in mutual_attention(z_v, z_l, *parameters, **settings, reading=reading)])
        for reading in READINGS
    ]
    for one in range(len(outputs)):
        assert all((outputs[one] - outputs[other]).abs().max() > 1e-3 for other in range(one))


def test_by_hand_two_pixels_and_two_words() -> None:
    """S / √4 = log 4 and -log 4 in the first pixel, -1 and -1 in the second, which keeps neither word."""
    s = math.log(4)
    z_v = torch.tensor([[[1.0, 0, 0, 0], [0, 1, 0, 0]]], dtype=torch.float64)
    z_l = torch.tensor([[[2 * s, -2, 0, 0], [-2 * s, -2, 0, 0]]], dtype=torch.float64)
    printed = mutual_attention_weights(z_v, z_l, reading=Reading(score_scale="channels"))
    torch.testing.assert_close(printed, torch.tensor([[[1.0, 0], [0, 0]]], dtype=torch.float64))
    filled = mutual_attention_weights(z_v, z_l, reading=Reading("columns", "all", "channels"))
    torch.testing.assert_close(filled, torch.tensor([[[1.0, 0], [0.5, 0.5]]], dtype=torch.float64))
    scaled = mutual_attention_weights(z_v, z_l, keep="all", reading=Reading(score_scale="channels"))
    torch.testing.assert_close(scaled, torch.tensor([[[16 / 17, 1 / 17], [0.5, 0.5]]], dtype=torch.float64))
    # The first word gathers (1, 0.5) / 1.5 of the pixels, the second the second pixel.
    means = reference.gathered(filled, z_v, Reading("columns"))
    wanted = torch.tensor([[[2 / 3, 1 / 3, 0, 0], [0, 1, 0, 0]]], dtype=torch.float64)
    torch.testing.assert_close(means, wanted)


@pytest.mark.parametrize("reading", OTHERS, ids=str)
def test_gradients_are_the_derivatives(reading: Reading) -> None:
    z_v, z_l, parameters, word_mask, offsets = case()
    leaves = tuple(t.requires_grad_() for t in (z_v, z_l, *parameters))
    S = reference.relevance(z_v[[0, 0, 0, 2]], z_l, reading)
    assert (S - math.log(TAU / (1 - TAU))).abs().min() > 1e-4  # the gate is a step: no derivative there

    def operation(*tensors: Tensor) -> tuple[Tensor, Tensor]:
        return mutual_attention(
            *tensors, tau=TAU, word_mask=word_mask, expr_offsets=offsets, impl="reference", reading=reading
        )

    assert torch.autograd.gradcheck(operation, leaves)


COLUMNS, ALL, SCALED = Reading("columns"), Reading(empty_rows="all"), Reading(score_scale="channels")
MUTATIONS = {
    "no division": ("return U / c.masked_fill(c == 0, 1)", "return U", COLUMNS),
    "sums over everything": ("A.sum(dim=1)[:, :, None]", "A.sum(dim=(1, 2))[:, None, None]", COLUMNS),
    "the number of pixels": ("c.masked_fill(c == 0, 1)", "A.shape[1]", COLUMNS),
    "an empty column divided by 0": ("c.masked_fill(c == 0, 1)", "c", COLUMNS),
    "empty rows skipped": ('if reading.empty_rows == "all" else kept', "if False else kept", ALL),
    "other rows filled too": ("| real & ~kept.any(dim=2, keepdim=True)", "| real", ALL),
    "padding attended in empty rows": ("| real & ~kept", "| ~kept", ALL),
    "no scale": ('if reading.score_scale == "channels"', "if False", SCALED),
    "a scale of 1 / C": ("math.sqrt(z_v.shape[2])", "z_v.shape[2]", SCALED),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_a_broken_reference_is_noticed(name: str, mutant_of: MutantOf) -> None:
    right, broken, reading = MUTATIONS[name]
    mutant = mutant_of(reference, right, broken)
    difference = wrong(mutant, reading, "relevant")
    assert math.isnan(difference) or difference > 1e-3


def test_an_unknown_reading_is_named() -> None:
    z_v, z_l, parameters = inputs(1, 1, L_v=5, L_t=4, C=6)
    wanted = "reading.language_norm = 'rows'; known are none, columns"
    with pytest.raises(ValueError, match=wanted):
        mutual_attention(z_v, z_l, *parameters, reading=Reading("rows"))  # type: ignore[arg-type]


@pytest.mark.slow
def test_a_reading_compiles_into_one_graph() -> None:
    z_v, z_l, parameters = inputs(1, 1, L_v=5, L_t=4, C=16)
    reading = Reading("columns", "all", "channels")
    compiled = torch.compile(mutual_attention, fullgraph=True, backend="aot_eager", dynamic=True)
    got = compiled(z_v, z_l, *parameters, reading=reading)
    needed = mutual_attention(z_v, z_l, *parameters, reading=reading)
    assert all(torch.equal(*pair) for pair in zip(got, needed, strict=True))
