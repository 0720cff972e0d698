"""Pictures of predictions: a mask over its image, with the expression below it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from maris_fast.pictures.fonts import CaptionFont, caption_font, drawable
from maris_fast.system.files import replaced

PREDICTION = (255, 64, 129)
TRUTH = (0, 200, 83)
DIMMED = 0.55
TINT = 0.45
GAP = 8
"""Pixels between and around the panels of a sheet."""


@dataclass(frozen=True)
class Panel:
    """One picture of a sheet: an RGB image, its masks (bool [H, W]) and a caption."""

    image: Image.Image
    prediction: NDArray[np.bool_]
    caption: str
    truth: NDArray[np.bool_] | None = None
    colour: tuple[int, int, int] = PREDICTION
    """Colour of ``prediction``, which may be a mask of another origin."""


def overlay(panel: Panel, *, width: int | None = None) -> Image.Image:
    """``masked`` with the caption below; arguments and errors are the same."""
    return _captioned(masked(panel, width=width), panel.caption)


def masked(panel: Panel, *, width: int | None = None) -> Image.Image:
    """The image, dimmed except for the predicted mask, which is tinted and outlined.

    Args:
        panel: what to show; a ``truth`` is outlined in green.
        width: in pixels; None keeps the image's own.

    Raises:
        ValueError: a mask's size differs from the image's.
    """
    for name, mask in (("prediction", panel.prediction), ("truth", panel.truth)):
        if mask is not None and mask.shape != (panel.image.height, panel.image.width):
            raise ValueError(
                f"the {name} is {mask.shape}, the image {panel.image.size[::-1]}; expected one size"
            )
    pixels = np.asarray(panel.image.convert("RGB"), dtype=np.float32)
    inside = panel.prediction[..., None]
    tinted = (1 - TINT) * pixels + TINT * np.array(panel.colour, dtype=np.float32)
    # An empty prediction dims nothing: there is nothing to highlight.
    outside = DIMMED * pixels if panel.prediction.any() else pixels
    picture = Image.fromarray(np.where(inside, tinted, outside).astype(np.uint8))
    if width is not None and width != picture.width:
        picture = picture.resize(
            (width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS
        )
    if panel.truth is not None:
        outline(picture, panel.truth, TRUTH)
    outline(picture, panel.prediction, panel.colour)
    return picture


def save_png(picture: Image.Image, path: Path) -> None:
    """Write the picture atomically.

    Raises:
        OSError: it cannot be written.
    """
    with replaced(path) as partial:
        picture.save(partial, format="PNG")


def sheet(panels: Sequence[Panel], *, columns: int = 4, width: int = 256) -> Image.Image:
    """Overlays side by side on white, each ``width`` pixels wide.

    Raises:
        ValueError: no panels.
    """
    if not panels:
        raise ValueError("a sheet needs at least one panel")
    pictures = [overlay(panel, width=width) for panel in panels]
    rows = [pictures[start : start + columns] for start in range(0, len(pictures), columns)]
    heights = [max(picture.height for picture in row) for row in rows]
    columns = min(columns, len(pictures))
    whole = Image.new("RGB", (columns * (width + GAP) + GAP, sum(heights) + GAP * (len(rows) + 1)), "white")
    y = GAP
    for row, height in zip(rows, heights, strict=True):
        for column, picture in enumerate(row):
            whole.paste(picture, (GAP + column * (width + GAP), y))
        y += height + GAP
    return whole


def outline(picture: Image.Image, mask: NDArray[np.bool_], colour: tuple[int, int, int]) -> None:
    """Draws the mask's border onto the picture, 0.4% of its width thick, with a dark rim."""
    scaled = resized_mask(mask, picture.size)
    thickness = max(1, round(picture.width / 250))
    border = scaled & near(~scaled, thickness)
    rim = near(scaled, 1) & ~scaled
    picture.paste((20, 20, 20), mask=Image.fromarray(rim))
    picture.paste(colour, mask=Image.fromarray(border))


def resized_mask(mask: NDArray[np.bool_], size: tuple[int, int]) -> NDArray[np.bool_]:
    """A mask at another (width, height)."""
    resized = Image.fromarray(mask).convert("L").resize(size, Image.Resampling.BILINEAR)
    return np.asarray(resized) > 127


def near(mask: NDArray[np.bool_], reach: int) -> NDArray[np.bool_]:
    """[H, W]: whether a pixel of the mask is at most ``reach`` rows and ``reach`` columns away."""
    for axis in (0, 1):
        found, reached = np.moveaxis(mask, axis, 0), 0
        while reached < reach:
            step = min(2 * reached + 1, reach - reached)  # a longer one would leave gaps
            wider = found.copy()
            wider[step:] |= found[:-step]
            wider[:-step] |= found[step:]
            found, reached = wider, reached + step
        mask = np.moveaxis(found, 0, axis)
    return mask


def _captioned(picture: Image.Image, caption: str) -> Image.Image:
    font = caption_font(max(11, min(28, picture.width // 20)))
    lines = wrapped(drawable(caption), font, picture.width - 8)
    height = round(font.size * 1.35)
    whole = Image.new("RGB", (picture.width, picture.height + height * len(lines) + 6), "white")
    whole.paste(picture, (0, 0))
    draw = ImageDraw.Draw(whole)
    for row, line in enumerate(lines):
        font.draw(draw, (4, picture.height + 3 + row * height), line, fill=(20, 20, 20))
    return whole


def wrapped(text: str, font: CaptionFont, width: float) -> list[str]:
    """Lines of at most ``width`` pixels, broken between words, and within words wider than a line."""
    lines = [""]
    for word in (part for whole in text.split() for part in _parts(whole, font, width)):
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _parts(word: str, font: CaptionFont, width: float) -> list[str]:
    """A word in pieces that fit into a line; most words are one piece."""
    parts = [""]
    for letter in word:
        if parts[-1] and font.getlength(parts[-1] + letter) > width:
            parts.append("")
        parts[-1] += letter
    return parts
