"""Mask targets against a slow plain version; features keep their values within their stored precision."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from maris_fast.config import FeatureDtype
from maris_fast.data_shards.cache.features import as_tensor, from_stored, to_float16, to_stored
from maris_fast.data_shards.cache.mask_targets import mask_target, pack_masks
from maris_fast.data_shards.stream.device import unpack_masks
from maris_fast.errors import InputError
from maris_fast.geometry import ImageGeometry
from tests.data.cache_dataset import box


def resized_line(values: list[float], size: int) -> list[float]:
    """Antialiased linear interpolation of one line, by its definition: a triangle as wide as the step."""
    step = len(values) / size
    reach = max(step, 1.0)
    line = []
    for i in range(size):
        centre = (i + 0.5) * step
        weights = [max(0.0, 1 - abs((j + 0.5 - centre) / reach)) for j in range(len(values))]
        line.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return line


def slow_target(mask: NDArray[np.uint8], geometry: ImageGeometry) -> list[list[bool]]:
    rows = [resized_line(list(map(float, row)), geometry.w_px) for row in mask]
    columns = [resized_line(list(column), geometry.h_px) for column in zip(*rows, strict=True)]
    coverage = []
    for y in range(4 * geometry.h):
        line = []
        for x in range(4 * geometry.w):
            block = [
                columns[c][r]
                for r in range(4 * y, 4 * y + 4)
                for c in range(4 * x, 4 * x + 4)
                if r < geometry.h_px and c < geometry.w_px
            ]
            line.append(math.fsum(block) / 16)
        coverage.append(line)
    most = max(map(max, coverage))
    threshold = 0.5 if most >= 0.5 else most - 1e-6
    return [[value >= threshold for value in line] for line in coverage]


@pytest.mark.parametrize(
    ("size", "image_size", "corners"),
    [
        ((30, 40), 64, (3, 5, 20, 31)),  # enlarged, grid ends with the image's height
        ((41, 29), 32, (10, 0, 41, 13)),  # reduced, at the border, grid reaches beyond the width
        ((64, 64), 64, (2, 0, 34, 64)),  # its first and last blocks are exactly half covered
        ((64, 64), 32, (20, 20, 23, 22)),  # so small that no block is half covered
    ],
)
def test_targets_are_those_of_a_slow_plain_version(
    size: tuple[int, int], image_size: int, corners: tuple[int, int, int, int]
) -> None:
    geometry = ImageGeometry.of(*size, image_size)
    mask = box(*size, *corners)
    target = mask_target(mask, geometry)
    assert target.shape == geometry.mask_size
    assert target.any()
    assert np.array_equal(target, slow_target(mask, geometry))


def test_an_empty_mask_stays_empty() -> None:
    assert not mask_target(np.zeros((40, 40), np.uint8), ImageGeometry.of(40, 40, 64)).any()


@pytest.mark.parametrize("width", [4, 12, 16])
def test_packing_keeps_every_pixel(width: int) -> None:
    masks = np.random.default_rng(0).random((3, 8, width)) < 0.5
    packed = pack_masks(masks)
    assert packed.shape == (3, 8, -(-width // 8))
    assert np.array_equal(unpack_masks(torch.from_numpy(packed), width), masks)


CHANNELS = torch.tensor([1e-3, 1.0, 300.0, 0.0, 20.0])


def test_int8_is_within_half_a_step_and_keeps_channels_of_zeros() -> None:
    level = torch.randn(6, 7, 5) * CHANNELS
    q, scale = to_stored(level, "int8")
    assert q.dtype == np.int8
    assert np.abs(q).max() == 127
    assert scale is not None
    restored = torch.full_like(level, torch.nan)
    from_stored(as_tensor(q, "int8"), torch.from_numpy(scale), restored)
    assert ((restored - level).abs() <= 0.5001 * torch.from_numpy(scale)).all()
    assert (restored[..., 3] == 0).all()


@pytest.mark.parametrize(("dtype", "step"), [("fp8", 2**-4), ("bf16", 2**-8)])
def test_a_stored_float_is_within_its_rounding(dtype: FeatureDtype, step: float) -> None:
    level = torch.randn(6, 7, 5) * CHANNELS
    q, scale = to_stored(level, dtype)
    restored = torch.full_like(level, torch.nan)
    from_stored(as_tensor(q, dtype), None if scale is None else torch.from_numpy(scale), restored)
    # Relative to the value, plus half the smallest step of fp8, which is relative to the channel.
    smallest = 2**-10 / 448 * level.abs().amax(dim=(0, 1)) if dtype == "fp8" else 0
    assert ((restored - level).abs() <= 1.001 * step * level.abs() + smallest).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    level = torch.zeros(2, 2, 3)
    level[1, 1, 2] = bad
    with pytest.raises(InputError, match="not finite"):
        to_stored(level, "int8")
    with pytest.raises(InputError, match="do that"):
        to_float16(level, what="features", remedy="do that")


def test_features_beyond_float16_suggest_int8() -> None:
    with pytest.raises(InputError, match=r"7e\+04.*65504.*int8"):
        to_float16(torch.tensor([7e4]), what="features", remedy="set feature_dtype to int8")
