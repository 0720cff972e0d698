"""What may be asked of a model by whoever reaches a server of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maris_fast.errors import InputError

if TYPE_CHECKING:
    from PIL import Image

    from maris_fast.images import Upload, Views

MOST_SENTENCES = 16
"""About a photograph at once."""
MOST_LETTERS = 1000
"""Of a sentence; the text tower takes 77 tokens."""
MOST_PIXELS = 25_000_000
"""Of a photograph."""
MOST_UPLOADED = 32 << 20
"""Bytes of a photograph's file."""
UPLOAD_SECONDS = 120.0
"""In which an upload has to come, from its headers to its last byte."""


class TooLargeError(InputError):
    """What came is beyond a limit of size."""


def photograph(source: Path | Upload, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """The photograph as browsers show it, RGB: its EXIF orientation is applied.

    Raises:
        TooLargeError: more pixels, of which none was decoded.
        InputError: no file, or none that can be read as an image.
    """
    from maris_fast.images import load_image, views_of  # not for the command line's help, which names limits

    require_pixels(source, views_of(source), most_pixels)
    return load_image(source)


def require_pixels(source: Path | Upload, views: Views, most: int = MOST_PIXELS) -> None:
    """
    Args:
        views: of the source.

    Raises:
        TooLargeError: more pixels.
    """
    height, width = views.stored
    if height * width > most:
        raise TooLargeError(f"{source.name} has {height * width:,} pixels; at most {most:,} are taken")


def require_sentences(sentences: Sequence[str], most: int = MOST_SENTENCES) -> None:
    """
    Raises:
        InputError: none, too many, one too long, or one that is no text.
    """
    if not sentences:
        raise InputError("no sentence; write what to segment, such as: the dog on the left")
    if len(sentences) > most:
        raise InputError(f"{len(sentences)} sentences; at most {most} are answered at once")
    for sentence in sentences:
        if len(sentence) > MOST_LETTERS:
            raise InputError(f"a sentence of {len(sentence)} letters; at most {MOST_LETTERS} are read")
        try:
            sentence.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{sentence!r} holds half a character at {error.start}; write it again"
            ) from error
