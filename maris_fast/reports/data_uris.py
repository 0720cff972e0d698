"""Pictures as they stand inside a page."""

from __future__ import annotations

import base64
import io

from PIL import Image

COLOURS = 256


def png_uri(png: bytes) -> str:
    """A file's bytes as the address of an image."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def small_png_uri(picture: Image.Image) -> str:
    """The picture in 256 colours of its own: of a photograph a quarter of the bytes.

    The palette covers rare colours as well as frequent ones, so that a small yellow circle stays yellow.
    """
    file = io.BytesIO()
    # The means are followed until nine pixels of ten stay: further on it takes seconds for little.
    settled = picture.width * picture.height // 10
    few = picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=settled)
    few.save(file, format="PNG", optimize=True)
    return png_uri(file.getvalue())
