from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from maris_fast.pictures.overlays import PREDICTION, Panel, overlay, sheet


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
