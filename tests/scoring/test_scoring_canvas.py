"""Canvases against torch's interpolation."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from maris_fast.geometry import ImageGeometry, to_original_size, to_resized_image
from maris_fast.scoring.canvas import Letterboxed, Squashed, Warped, cubic, probabilities_of


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@given(st.integers(2, 12), st.integers(2, 30))
def test_cubic_weights_are_torchs_bicubic(pixels: int, wanted: int) -> None:
    image = noise(pixels, pixels)
    places = (torch.arange(wanted, dtype=torch.float64) + 0.5) * pixels / wanted - 0.5
    weights = cubic(places, pixels, beyond="edge").float()
    theirs = F.interpolate(image[None, None], (wanted, wanted), mode="bicubic", align_corners=False)
    torch.testing.assert_close(weights @ image @ weights.T, theirs[0, 0], atol=1e-5, rtol=1e-5)


def warped(image: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """``image`` [H, W] sampled by torch at pixel indices ``rows`` x ``columns``: cubic, zero outside."""
    h, w = image.shape
    y, x = torch.meshgrid(2 * rows / (h - 1) - 1, 2 * columns / (w - 1) - 1, indexing="ij")
    sampled = F.grid_sample(
        image[None, None], torch.stack([x, y], -1)[None], "bicubic", "zeros", align_corners=True
    )
    return sampled[0, 0]


@pytest.mark.parametrize(("height", "width"), [(480, 640), (333, 500), (640, 200)])
def test_the_way_there_and_back_is_two_cubic_warps(height: int, width: int) -> None:
    geometry, size = ImageGeometry.of(height, width, 512), 416
    logits = noise(1, *geometry.mask_size)
    scale = min(size / height, size / width)
    margins = (size - height * scale) / 2, (size - width * scale) / 2
    # Map indices of the square to the image, and those to the logits; outside the image the square is 0.
    places = [(torch.arange(size).double() - margin) / scale for margin in margins]
    inside = [(p >= -0.5) & (p <= n - 0.5) for p, n in zip(places, (height, width), strict=True)]
    sides = ((height, geometry.h_px), (width, geometry.w_px))
    at = [(p + 0.5) * n_px / n / 4 - 0.5 for p, (n, n_px) in zip(places, sides, strict=True)]
    edges = F.pad(logits[0].sigmoid().double()[None, None], (8, 8, 8, 8), mode="replicate")[0, 0]
    square = warped(edges, at[0].clamp(-4, logits.shape[1] + 4) + 8, at[1].clamp(-4, logits.shape[2] + 4) + 8)
    square = square * inside[0][:, None] * inside[1]
    back = [torch.arange(n).double() * scale + m for n, m in zip((height, width), margins, strict=True)]
    theirs = warped(square, *back).float()
    torch.testing.assert_close(
        Warped(size).values(probabilities_of(logits), geometry)[0], theirs, atol=1e-4, rtol=1e-4
    )


@pytest.mark.parametrize(("height", "width"), [(480, 640), (333, 500), (90, 64), (416, 416)])
def test_every_canvas_puts_a_ramp_where_it_lies_in_the_image(height: int, width: int) -> None:
    geometry = ImageGeometry.of(height, width, 416)
    h, w = geometry.mask_size
    ramp = (torch.arange(w) - w / 2) / w + (torch.arange(h)[:, None] - h / 2) / h
    at_own = to_original_size(ramp[None], geometry)[0].sigmoid()
    # Away from the borders, where Warped interpolates with the zeros outside the image.
    inner = slice(height // 8, -height // 8), slice(width // 8, -width // 8)
    for canvas in (Letterboxed(416), Warped(416)):
        (values,) = canvas.values(probabilities_of(ramp[None]), geometry)
        assert values.shape == (height, width)
        # A pixel of the logits is a step of 1 / w in the ramp, and at most a quarter of that in probability.
        torch.testing.assert_close(values[inner], at_own[inner], atol=0.25 / min(h, w), rtol=0)


def test_an_image_of_the_canvas_size_is_neither_squashed_nor_warped() -> None:
    geometry = ImageGeometry.unresized(416, 416)
    logits = noise(1, *geometry.mask_size)
    own = to_original_size(logits, geometry)[0]
    assert torch.equal(Squashed(416).values(to_resized_image(logits, geometry), geometry)[0], own)
    probabilities = to_original_size(logits.sigmoid(), geometry)[0]
    torch.testing.assert_close(Letterboxed(416).values(logits.sigmoid(), geometry)[0], probabilities)
