"""Fonts for pictures with sentences in any script.

DejaVu Sans, which comes with matplotlib, is used for the letters it has, so that captions look the same on
every machine; for other letters, installed fonts are searched. A letter that no font has is written as its
escape sequence: an empty box would hide which one it is. matplotlib is imported for the first caption: every
training rank imports this module, and few draw.
"""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterator
from functools import cache
from itertools import groupby

from PIL import ImageDraw, ImageFont

from maris_fast.system.terminal import printable

log = logging.getLogger(__name__)

FIRST = "DejaVu Sans"
_WITHOUT_LETTERS = ("Last Resort", "LastResort", "Adobe Blank")
"""Fonts that show a box for every letter."""


class CaptionFont:
    """Text of one height, each letter from the first font that has it.

    Args:
        size: height in pixels.
    """

    def __init__(self, size: float) -> None:
        self.size = size
        self._ascent = _loaded(_first(), size).getmetrics()[0]

    def getlength(self, text: str) -> float:
        """Width in pixels."""
        return sum(font.getlength(part) for font, part in self._parts(text))

    def draw(
        self, draw: ImageDraw.ImageDraw, place: tuple[float, float], text: str, fill: tuple[int, int, int]
    ) -> None:
        """Draw text whose upper left corner is at ``place``."""
        x, y = place
        for font, part in self._parts(text):
            draw.text((x, y + self._ascent), part, fill=fill, font=font, anchor="ls")
            x += font.getlength(part)

    def _parts(self, text: str) -> Iterator[tuple[ImageFont.FreeTypeFont, str]]:
        for file, letters in groupby(text, key=lambda letter: _file_with(letter) or _first()):
            yield _loaded(file, self.size), "".join(letters)


@cache
def caption_font(size: float) -> CaptionFont:
    """The font that is ``size`` pixels high."""
    return CaptionFont(size)


def drawable(text: str) -> str:
    """``text`` with escapes in place of control characters and of letters that no installed font has."""
    return "".join(_drawable(letter) for letter in printable(text))


def families(text: str) -> list[str]:
    """Font families with which matplotlib can draw a ``drawable`` text."""
    from matplotlib.ft2font import FT2Font

    files = dict.fromkeys(_file_with(letter) for letter in text)
    return list(dict.fromkeys([FIRST, *(FT2Font(file).family_name for file in files if file)]))


def _drawable(letter: str) -> str:
    if letter.isspace() or _file_with(letter) is not None:
        return letter
    if unicodedata.category(letter) in ("Cf", "Mn"):  # joins or modifies its neighbour
        return ""
    _tell_once(letter)
    return letter.encode("unicode_escape").decode("ascii")


@cache
def _told() -> set[str]:
    return set()


def _tell_once(letter: str) -> None:
    if not _told():
        log.warning(
            "no installed font has the letter %s (%s), so pictures show its escape; install a font of its "
            "script, such as Noto Sans (Debian: fonts-noto-core, fonts-noto-cjk)",
            letter,
            unicodedata.name(letter, "without a name"),
        )
        _told().add(letter)


@cache
def _file_with(letter: str) -> str | None:
    """The font file that draws a letter."""
    return next((file for file in _files() if ord(letter) in _letters(file)), None)


@cache
def _files() -> tuple[str, ...]:
    """DejaVu Sans, then the others: upright before slanted, of ordinary weight first, sans before serif."""
    from matplotlib import font_manager

    found = sorted(
        font_manager.fontManager.ttflist,
        key=lambda font: (font.style != "normal", font.weight != 400, "Sans" not in font.name, font.name),
    )
    usable = (font.fname for font in found if not font.name.startswith(_WITHOUT_LETTERS))
    return tuple(dict.fromkeys([_first(), *usable]))


@cache
def _letters(file: str) -> frozenset[int]:
    """Code points that a font has; none if it is a bitmap font, which has only one size."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(file)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (OSError, RuntimeError):  # removed, or not a font after all
        return frozenset()


@cache
def _first() -> str:
    from matplotlib import font_manager

    return str(font_manager.findfont(FIRST))


@cache
def _loaded(file: str, size: float) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(file, size)
