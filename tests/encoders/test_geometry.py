"""Mapping onto the grid and back matches SAM's own."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from segment_anything.modeling import Sam
from segment_anything.utils.transforms import ResizeLongestSide

from maris_fast.errors import InputError
from maris_fast.geometry import PATCH, ImageGeometry, to_original_size, to_resized_image


@pytest.mark.parametrize(
    ("size", "image_size", "expected"),
    [
        ((480, 640), 1024, (768, 1024, 48, 64)),
        ((640, 427), 1024, (1024, 683, 64, 43)),
        ((100, 100), 256, (256, 256, 16, 16)),
        ((333, 500), 256, (170, 256, 11, 16)),
    ],
)
def test_the_grid_covers_the_resized_image(
    size: tuple[int, int], image_size: int, expected: tuple[int, int, int, int]
) -> None:
    geometry = ImageGeometry.of(*size, image_size)
    assert (geometry.h_px, geometry.w_px, *geometry.grid) == expected
    assert geometry.mask_size == (4 * geometry.h, 4 * geometry.w)


@pytest.mark.parametrize("image_size", [160, 256, 1000, 1024])
def test_the_resized_image_is_as_sams_own_code_resizes_it(image_size: int) -> None:
    sizes = [(height, 640) for height in range(200, 1281)] + [(427, width) for width in range(100, 700)]
    for height, width in sizes:
        geometry = ImageGeometry.of(height, width, image_size)
        sams = ResizeLongestSide.get_preprocess_shape(height, width, image_size)
        assert (geometry.h_px, geometry.w_px) == sams


def test_an_image_too_narrow_for_the_encoder_is_an_error() -> None:
    with pytest.raises(InputError, match="1 x 4000"):
        ImageGeometry.of(1, 4000, 1024)


def test_logits_return_to_the_original_size_as_sams_do() -> None:
    class Encoder(torch.nn.Module):
        img_size = 256

    sam = Sam(Encoder(), torch.nn.Module(), torch.nn.Module())  # type: ignore[arg-type]
    geometry = ImageGeometry.of(300, 450, 256)
    # SAM's low-resolution logits cover the padded square; ours end with the grid.
    square = torch.zeros(2, 1, 64, 64)
    square[..., : 4 * geometry.h, :] = torch.randn(2, 1, 4 * geometry.h, 64)
    theirs = sam.postprocess_masks(square, (geometry.h_px, geometry.w_px), (300, 450))[:, 0]
    ours = to_original_size(square[:, 0, : 4 * geometry.h], geometry)
    assert ours.shape == (2, 300, 450)
    # The last rows of SAM's interpolation look into the padding, which ours does not have.
    torch.testing.assert_close(ours[:, :294], theirs[:, :294], rtol=1e-4, atol=1e-4)


def test_logits_of_another_grid_are_refused() -> None:
    with pytest.raises(ValueError, match="geometry"):
        to_original_size(torch.zeros(1, 64, 64), ImageGeometry.of(300, 450, 256))


@given(
    st.integers(1, 64),
    st.integers(1, 64),
    st.integers(1, 4),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    st.floats(-6, 6),
    st.integers(0, 2**32 - 1),
)
def test_the_way_to_the_resized_image_is_torchs_bilinear_to_the_last_bit(
    h: int, w: int, count: int, dtype: torch.dtype, magnitude: float, seed: int
) -> None:
    geometry = ImageGeometry.unresized(PATCH * h, PATCH * w)
    random = torch.Generator().manual_seed(seed)
    logits = (torch.randn(count, *geometry.mask_size, generator=random) * 10**magnitude).to(dtype)
    wanted = F.interpolate(logits[:, None], (PATCH * h, PATCH * w), mode="bilinear", align_corners=False)
    assert torch.equal(to_resized_image(logits, geometry), wanted[:, 0])
