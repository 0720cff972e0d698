"""Limits on what clients of a server may ask of a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from maris_fast.errors import InputError, TooLargeError

if TYPE_CHECKING:
    from PIL import Image

    from maris_fast.images import Upload, Views

MOST_SENTENCES = 16
"""Most sentences about a photograph in one request."""
MOST_LETTERS = 1000
"""Most characters of a sentence; the text tower takes 77 tokens."""
MOST_PIXELS = 25_000_000
"""Most pixels of a photograph."""
MOST_UPLOADED = 32 << 20
"""Most bytes of a photograph's file."""
UPLOAD_SECONDS = 120.0
"""Time in which an upload has to arrive, from its headers to its last byte."""


def photograph(source: Path | Upload, most_pixels: int = MOST_PIXELS) -> Image.Image:
    """The photograph in RGB as browsers show it, with its EXIF orientation applied.

    Raises:
        TooLargeError: it has more than ``most_pixels``; none was decoded.
        InputError: the file does not exist or cannot be read as an image.
    """
    from maris_fast.images import load_image, views_of  # late, as the command line's help imports limits

    require_pixels(source, views_of(source), most_pixels)
    return load_image(source)


def require_pixels(source: Path | Upload, views: Views, most: int = MOST_PIXELS) -> None:
    """
    Args:
        views: ``views_of`` the source.

    Raises:
        TooLargeError: the image has more than ``most`` pixels.
    """
    height, width = views.stored
    if height * width > most:
        raise TooLargeError(f"{source.name} has {height * width:,} pixels; at most {most:,} are taken")


def require_sentences(sentences: Sequence[str], most: int = MOST_SENTENCES) -> None:
    """
    Raises:
        InputError: there are none or too many, or one is too long or not valid text.
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
