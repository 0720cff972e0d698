"""Letters of any script are drawn by a font that has them, or written as escapes."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from matplotlib import font_manager
from PIL import Image

from maris_fast.encoders.tokens import readable, tokeniser
from maris_fast.geometry import ImageGeometry
from maris_fast.pictures import fonts
from maris_fast.pictures.attention_maps import regions_picture, words_picture
from maris_fast.pictures.attention_weights import Attention
from maris_fast.pictures.overlays import Panel, overlay


@pytest.fixture
def forgotten() -> Iterator[None]:
    """Clear the caches of fonts before and after the test."""
    caches = [one for one in vars(fonts).values() if hasattr(one, "cache_clear")]
    for one in caches:
        one.cache_clear()
    yield
    for one in caches:
        one.cache_clear()


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, forgotten: None) -> None:
    """A font whose only letter is a black square."""
    pen = TTGlyphPen(None)
    pen.moveTo((0, 0))
    for corner in ((0, 800), (800, 800), (800, 0)):
        pen.lineTo(corner)
    pen.closePath()
    builder = FontBuilder(1000, isTTF=True)
    builder.setupGlyphOrder([".notdef", "square"])
    builder.setupCharacterMap({ord("犬"): "square"})
    builder.setupGlyf({".notdef": TTGlyphPen(None).glyph(), "square": pen.glyph()})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "square": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Squares", "styleName": "Regular"})
    builder.setupOS2(sTypoAscender=800, usWeightClass=400)
    builder.setupPost()
    builder.save(tmp_path / "squares.ttf")
    dejavu = [font for font in font_manager.fontManager.ttflist if "DejaVu" in font.name]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", dejavu)
    font_manager.fontManager.addfont(tmp_path / "squares.ttf")


def captioned(text: str) -> np.ndarray:
    mask = np.zeros((60, 400), dtype=bool)
    return np.asarray(overlay(Panel(Image.new("RGB", (400, 60)), mask, text)))[60:]


def test_a_letter_is_drawn_by_the_font_that_has_it(installed: None) -> None:
    assert fonts.drawable("the 犬 собака") == "the 犬 собака"
    assert fonts.families("the 犬") == ["DejaVu Sans", "Squares"]
    ink = captioned("犬") < 100
    rows, columns = np.nonzero(ink.all(2))
    assert len(rows) == (np.ptp(rows) + 1) * (np.ptp(columns) + 1) > 100  # a full square, not a frame
    assert fonts.caption_font(20).getlength("犬a") == pytest.approx(
        20 + fonts.caption_font(20).getlength("a"), abs=1
    )


def test_a_letter_that_no_font_has_is_escaped_and_reported_once(
    installed: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert fonts.drawable("the 狗 and 猫") == "the \\u72d7 and \\u732b"
        fonts.drawable("狗")
    (record,) = caplog.records
    assert "no installed font has the letter 狗 (CJK UNIFIED IDEOGRAPH-72D7)" in record.getMessage()
    np.testing.assert_array_equal(captioned("狗"), captioned("\\u72d7"))


def test_a_font_that_is_gone_or_none_has_no_letters(tmp_path: Path) -> None:
    """According to FreeType itself."""
    (tmp_path / "text.ttf").write_text("no font")
    assert fonts._letters(str(tmp_path / "text.ttf")) == frozenset()
    assert fonts._letters(str(tmp_path / "gone.ttf")) == frozenset()


def test_controls_and_joiners_of_a_caption_draw_no_box(installed: None) -> None:
    assert fonts.drawable("a\x1b[31m\u202e b\U000e0101") == "a\\x1b[31m\\u202e b"


def test_attention_names_words_in_all_scripts(installed: None, recwarn: pytest.WarningsRecorder) -> None:
    geometry = ImageGeometry.of(48, 64, 64)
    tokens = (*readable(tokeniser().encode("犬 left")), "<end>")
    blocks = np.full((1, *geometry.grid, len(tokens)), 1 / len(tokens), dtype=np.float32)
    attention = Attention("犬 left", tokens, blocks, geometry)
    image, mask = Image.new("RGB", (64, 48)), np.ones((48, 64), dtype=bool)
    words_picture(image, mask, attention, [(3, 3)])
    regions_picture(image, mask, attention, 0)
    assert not [one for one in recwarn if "missing from font" in str(one.message)]


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("the dog's hat", ["the", "dog", "'s", "hat"]),
        ("left собака", ["left", *(f"собака {place}/6" for place in range(1, 7))]),
        ("the 犬", ["the", "犬 1/3", "犬 2/3", "犬 3/3"]),
    ],
)
def test_tokens_of_bytes_are_called_by_their_word(text: str, names: list[str]) -> None:
    assert readable(tokeniser().encode(text)) == names
