from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFilter

from maris_fast.pictures.overlays import PREDICTION, Panel, near, outline, overlay, sheet


def panel(height: int = 60, width: int = 80, caption: str = "the dog") -> Panel:
    mask = np.zeros((height, width), dtype=bool)
    mask[20:40, 30:60] = True
    return Panel(Image.new("RGB", (width, height), (100, 100, 100)), mask, caption)


def test_the_mask_stands_out_and_the_rest_is_dimmed() -> None:
    pixels = np.asarray(overlay(panel())).astype(int)
    assert pixels[5, 5].max() < 100
    inside = pixels[30, 45]
    assert abs(inside - PREDICTION).sum() < abs(np.array([100, 100, 100]) - PREDICTION).sum()
    assert tuple(pixels[20, 45]) == PREDICTION  # its border


@pytest.mark.parametrize("reach", [1, 2, 3, 9])
@pytest.mark.parametrize("size", [(40, 60), (91, 37), (1, 5), (300, 2)])
def test_near_pixels_are_those_of_a_maximum_filter(size: tuple[int, int], reach: int) -> None:
    mask = np.random.default_rng(reach).random(size) > 0.97
    filtered = Image.fromarray(mask).convert("L").filter(ImageFilter.MaxFilter(2 * reach + 1))
    np.testing.assert_array_equal(near(mask, reach), np.asarray(filtered) > 0)


@pytest.mark.timeout(60)  # a filter of 161 x 161 pixels for each pixel would be minutes
def test_the_time_of_an_outline_hardly_grows_with_its_thickness() -> None:
    mask = np.ones((300, 20_000), bool)
    picture = Image.new("RGB", (20_000, 300))
    outline(picture, mask, PREDICTION)
    assert not np.asarray(picture).any()  # the picture's edge is no border of the mask
    mask[:, 10_000:] = False
    outline(picture, mask, PREDICTION)
    drawn = (np.asarray(picture)[150] == PREDICTION).all(-1)
    assert np.flatnonzero(drawn).tolist() == list(range(9920, 10_000))


def test_an_empty_mask_dims_nothing() -> None:
    empty = Panel(Image.new("RGB", (80, 60), (100, 100, 100)), np.zeros((60, 80), bool), "the cat")
    assert tuple(np.asarray(overlay(empty))[30, 40]) == (100, 100, 100)


def test_a_long_caption_is_wrapped_below_the_picture() -> None:
    short, long = overlay(panel()), overlay(panel(caption="the dog " * 12))
    assert long.width == short.width == 80
    assert long.height > short.height > 60


def test_a_sheet_holds_every_panel() -> None:
    assert sheet([panel()] * 5, columns=2, width=100).width == 2 * 100 + 3 * 8
    with pytest.raises(ValueError, match="at least one"):
        sheet([])


def test_a_mask_of_another_size_is_refused() -> None:
    wrong = Panel(Image.new("RGB", (80, 60)), np.zeros((80, 60), bool), "x")
    with pytest.raises(ValueError, match="expected one size"):
        overlay(wrong)
