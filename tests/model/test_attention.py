"""Attention in pictures: A as the model computes it, at the right pixel, legible."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maris_fast.config import ModelSettings
from maris_fast.errors import ConfigError, InputError
from maris_fast.geometry import ImageGeometry
from maris_fast.kernels import mutual_attention_weights
from maris_fast.model import Maris
from maris_fast.pictures import attention_maps
from maris_fast.pictures.attention_maps import regions_picture, words_picture
from maris_fast.pictures.attention_weights import Attention, of_expression, pixel_of, watched
from maris_fast.pictures.overlays import Panel, outline, overlay, resized_mask

GEOMETRY = ImageGeometry.of(60, 100, 128)  # 77 x 128 pixels, 5 x 8 tokens, the last row covered in part
VISUAL, TEXT, WORDS = 12, 10, 5
LENGTHS = (5, 2, 3)
TOKENS = (("the", "red", "one", "here", "<end>"), ("it", "<end>"), ("red", "one", "<end>"))


def model(**changes: object) -> Maris:
    torch.manual_seed(0)
    settings = ModelSettings.model_validate({"channels": 16, "heads": 2, "decoder_blocks": 1, **changes})
    return Maris(settings, VISUAL, TEXT).eval()


def batch() -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two images with one and two expressions."""
    random = torch.Generator().manual_seed(1)
    features = [torch.randn(2, *GEOMETRY.grid, VISUAL, generator=random) for _ in range(3)]
    words = torch.randn(3, WORDS, TEXT, generator=random)
    word_mask = torch.arange(WORDS) < torch.tensor(LENGTHS)[:, None]
    return features, words, word_mask, torch.tensor([0, 1, 3], dtype=torch.int32)


@torch.inference_mode()
def attentions(maris: Maris) -> list[Attention]:
    with watched(maris) as blocks:
        maris(*batch())
    return [of_expression(blocks, e, " ".join(TOKENS[e]), TOKENS[e], GEOMETRY) for e in range(3)]


@pytest.mark.parametrize("keep", ["relevant", "irrelevant", "all"])
def test_a_row_sums_to_1_over_the_words_or_is_0(keep: str) -> None:
    sums = np.concatenate([one.blocks.sum(-1).ravel() for one in attentions(model(keep=keep))])
    kept = sums > 0
    np.testing.assert_allclose(sums[kept], 1, atol=1e-6)
    assert kept.any()
    assert kept.all() == (keep == "all")  # with a gate, both kinds of rows occur here


@torch.inference_mode()
def test_what_is_shown_is_the_reference_of_each_block_in_turn() -> None:
    maris = model(tau=0.3)
    features, words, word_mask, offsets = batch()
    f_v, f_l, groups = maris.feature_enhancement(features).flatten(1, 2), words, offsets
    for place, block in enumerate(maris.ma_blocks):
        A = mutual_attention_weights(
            block.W_v(f_v), block.W_l(f_l), tau=0.3, word_mask=word_mask, expr_offsets=groups
        )
        for e, one in enumerate(attentions(maris)):
            shown = A[e, :, : LENGTHS[e]].unflatten(0, GEOMETRY.grid)
            np.testing.assert_array_equal(one.blocks[place], shown.numpy())
        f_v, f_l = block(f_v, f_l, word_mask, maris._tau, groups)
        groups = None


@torch.inference_mode()
def test_watching_changes_nothing_and_ends() -> None:
    maris = model()
    alone = maris(*batch()).logits
    with watched(maris) as blocks:
        for _ in range(2):
            watched_too = maris(*batch()).logits
    assert torch.equal(alone, watched_too)
    assert len(blocks) == 2
    first = blocks[0]
    maris(*batch())
    assert blocks[0] is first


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ma_blocks": 0}, "model.ma_blocks = 0, model.fusion = mutual"),
        ({"fusion": "transformer"}, "model.ma_blocks = 2, model.fusion = transformer"),
    ],
)
def test_a_model_without_mutual_attention_is_refused_in_words(
    changes: dict[str, object], reason: str
) -> None:
    refused = re.escape(f"no mutual-aware attention to show ({reason})")
    with pytest.raises(ConfigError, match=refused), watched(model(**changes)):
        pass


def one_token(row: int, column: int, geometry: ImageGeometry = GEOMETRY) -> Attention:
    """Attention to the first of two words at one token, and to the second at all others."""
    blocks = np.zeros((1, *geometry.grid, 2), np.float32)
    blocks[..., 1] = 1
    blocks[0, row, column] = 1, 0
    return Attention("it", ("it", "<end>"), blocks, geometry)


@pytest.mark.parametrize(("row", "column"), [(0, 0), (2, 3), (4, 7), (0, 7), (4, 0)])
def test_a_region_lies_where_its_token_does(row: int, column: int) -> None:
    region = one_token(row, column).region_of(0, 0)
    assert region.shape == (60, 100)
    left, top, right, bottom = GEOMETRY.pixels_of(row, column)
    y, x = np.unravel_index(region.argmax(), region.shape)
    assert left <= x + 0.5 <= right
    assert top <= y + 0.5 <= bottom
    other = one_token(row, column).region_of(1, 0)
    np.testing.assert_allclose(region + other, 1, atol=1e-5)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from([64, 128, 1024]), st.data())
def test_a_pixel_belongs_to_the_token_that_covers_its_middle(
    height: int, width: int, size: int, data: st.DataObject
) -> None:
    if min(height, width) * size < max(height, width):
        return  # too narrow to be encoded
    geometry = ImageGeometry.of(height, width, size)
    x = data.draw(st.sampled_from([0, width - 1]) | st.integers(0, width - 1))
    y = data.draw(st.sampled_from([0, height - 1]) | st.integers(0, height - 1))
    row, column = geometry.token_of(x, y)
    assert 0 <= row < geometry.h
    assert 0 <= column < geometry.w
    left, top, right, bottom = geometry.pixels_of(row, column)
    assert left - 1e-9 <= x + 0.5 <= right + 1e-9
    assert top - 1e-9 <= y + 0.5 <= bottom + 1e-9


def test_tokens_at_the_borders_of_an_image_that_is_not_square() -> None:
    # A token is 16 pixels of 77 x 128, which is 12.5 of 60 x 100.
    assert [GEOMETRY.token_of(x, 0)[1] for x in (0, 11, 12, 13, 24, 25, 99)] == [0, 0, 1, 1, 1, 2, 7]
    assert [GEOMETRY.token_of(0, y)[0] for y in (0, 11, 12, 49, 50, 59)] == [0, 0, 1, 3, 4, 4]
    assert GEOMETRY.pixels_of(4, 7)[2:] == (100, 60)
    for outside in ((-1, 0), (100, 0), (0, 60)):
        with pytest.raises(InputError, match="outside the image; expected x from 0 to 99"):
            GEOMETRY.token_of(*outside)


def test_words_of_a_pixel_are_those_of_its_token() -> None:
    attention = one_token(4, 7)
    np.testing.assert_array_equal(attention.words_at(99, 59), [[1, 0]])
    np.testing.assert_array_equal(attention.words_at(0, 59), [[0, 1]])


@given(st.integers(1, 30), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_the_pixel_of_a_mask_is_in_it(height: int, width: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    mask = random.random((height, width)) > random.random()
    x, y = pixel_of(mask)
    assert mask[y, x] or not mask.any()
    assert (0, 0) <= (x, y) < (width, height)


def test_the_pixel_of_a_mask_is_inside_its_largest_part() -> None:
    mask = np.zeros((50, 80), bool)
    mask[10:21, 30:41] = True
    mask[40:43, 0:4] = True
    assert pixel_of(mask) == (35, 15)
    assert pixel_of(np.zeros((10, 20), bool)) == (10, 5)


def no_ink_at_the_border(picture: Image.Image) -> bool:
    pixels = np.asarray(picture)
    return all((edge == 255).all() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]))


@pytest.mark.parametrize(("size", "blocks"), [((60, 100), 2), ((40, 250), 3), ((300, 20), 1)])
def test_nothing_of_a_picture_is_cut_off(size: tuple[int, int], blocks: int) -> None:
    geometry = ImageGeometry.of(*size, 128)
    tokens = ("W" * 15, "$x_1$", "antidisestablishmentarianism", "größe", *["mmmm"] * 4, "<end>")
    random = np.random.default_rng(0).random((blocks, *geometry.grid, len(tokens)), np.float32)
    weights = random / random.sum(-1, keepdims=True)
    attention = Attention("W" * 120 + " " + " ".join(["Walrus"] * 30), tokens, weights, geometry)
    mask = np.zeros(size, bool)
    mask[5:15, 5:15] = True
    image = Image.new("RGB", size[::-1], (90, 120, 60))
    corners = [(0, 0), (size[1] - 1, size[0] - 1)]
    words = words_picture(image, mask, attention, corners)
    assert no_ink_at_the_border(words)
    regions = regions_picture(image, mask, attention, blocks - 1)
    assert no_ink_at_the_border(regions)
    assert words.width == regions.width == 720


def test_a_large_photograph_is_scaled_down_before_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    large, small = ImageGeometry.of(1500, 2000, 128), ImageGeometry.of(960, 1280, 128)
    weights = np.random.default_rng(0).random((1, *large.grid, 2), np.float32)
    rows, columns = np.mgrid[:1500, :2000]
    photo = Image.fromarray(np.stack([rows // 6, columns // 8, rows // 7], -1).astype(np.uint8))
    mask = (rows > 400) & (columns > 900)
    drawn: list[tuple[int, int]] = []

    def recorded(picture: Image.Image, *inputs: Any) -> None:
        drawn.append(picture.size)
        outline(picture, *inputs)

    monkeypatch.setattr(attention_maps, "outline", recorded)
    pictures = []
    for geometry, mask_shown in ((large, mask), (small, resized_mask(mask, (1280, 960)))):
        image = photo.resize((geometry.width, geometry.height), Image.Resampling.LANCZOS)
        attention = Attention("a dog", ("dog", "<end>"), weights, geometry)
        pixel = geometry.width // 2, geometry.height // 4
        words = words_picture(image, mask_shown, attention, [pixel])
        pictures.append((words, regions_picture(image, mask_shown, attention, 0)))
    assert set(drawn) == {(1280, 960)}
    for one, other in zip(*pictures, strict=True):
        difference = np.abs(np.asarray(one).astype(int) - np.asarray(other))
        assert np.percentile(difference, 99) <= 2  # captions name different pixels


def test_a_word_wider_than_its_picture_is_broken_and_not_cut() -> None:
    mask = np.zeros((60, 80), bool)
    picture = overlay(Panel(Image.new("RGB", (80, 60)), mask, "runs/" + "W" * 40 + ": IoU 0.83"))
    caption = np.asarray(picture)[60:]
    assert (caption[:, -3:] == 255).all()
    assert picture.height > 60 + 4 * 14
