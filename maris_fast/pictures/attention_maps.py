"""Pictures of attention, after the paper's Figs. 1 and 5: words that matter to a pixel, regions of a word."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image

from maris_fast.pictures.attention_weights import Attention
from maris_fast.pictures.fonts import caption_font, drawable, families
from maris_fast.pictures.overlays import Panel, masked, outline, resized_mask, wrapped

INCHES, DPI = 4.8, 150
"""Width and resolution of a picture: readable on a phone without zooming, sharp on a desktop."""

LONGEST = 1280
"""Pixels of the longer side of an image that is drawn; a larger one is scaled down first."""

HEAT = "inferno"
HEAT_OVER_IMAGE = 0.62
COLUMNS, CHARTS = 3, 2
"""Regions and charts side by side."""
TALLEST = 1.6
"""Largest height over width of the space for an image."""
INFORMATIVE = 3
"""Words that Fig. 1 lists for a pixel."""

TITLE, TEXT = 10, 8.5
"""Font sizes in points."""
LEAST = 0.005
"""The smallest weight that is printed as more than 0.00."""

INK, SOFT, MARK, BAR, STRONG_BAR = "#0f172a", "#475569", "#ff1744", "#94a3b8", "#2563eb"


def words_picture(
    image: Image.Image,
    mask: NDArray[np.bool_],
    attention: Attention,
    pixels: Sequence[tuple[int, int]],
    blocks: Sequence[int] | None = None,
) -> Image.Image:
    """Vision-guided attention: the words' weights for the tokens under some pixels, beside the prediction.

    Args:
        image: at its original size.
        mask: bool [height, width], predicted for this expression.
        attention: of the expression.
        pixels: (x, y) of the original image, at least one.
        blocks: which MA blocks, counted from 0; None: all.

    Raises:
        InputError: a pixel is outside the image.
    """
    wanted = list(range(len(attention.blocks)) if blocks is None else blocks)
    weights = [attention.words_at(x, y)[wanted] for x, y in pixels]
    above = _height_of(image, INCHES / 2) + 0.35
    charts = -(-len(wanted) // CHARTS)
    below = (0.6 + 0.19 * len(attention.tokens)) * charts
    figure = _figure(above + below * len(pixels) + _title_height(attention.text))
    _title(figure, attention.text)
    heights = [above, *[below] * len(pixels)]
    upper, *lower = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    left, right = upper.subplots(1, 2)
    small, small_mask = _reduced(image, mask)
    _show(left, small, "chosen pixels" if len(pixels) > 1 else "chosen pixel", image.size)
    for number, pixel in enumerate(pixels, start=1):
        _mark(left, attention, pixel, str(number) if len(pixels) > 1 else "")
    _show(right, masked(Panel(small, small_mask, "")), "prediction")
    for number, (part, (x, y), rows) in enumerate(zip(lower, pixels, weights, strict=True), start=1):
        axes = part.subplots(charts, min(CHARTS, len(wanted)), sharey=True, squeeze=False).flatten().tolist()
        for one in axes[len(wanted) :]:
            one.axis("off")
        for block, one, row in zip(wanted, axes, rows, strict=False):
            point = f"{number}: " if len(pixels) > 1 else ""
            _bars(one, attention.tokens, row, f"{point}pixel {x},{y}; block {block + 1}")
    return _drawn(figure)


def regions_picture(
    image: Image.Image, mask: NDArray[np.bool_], attention: Attention, block: int
) -> Image.Image:
    """Language-guided attention: for each word its column of A over the image, beside the prediction.

    All words share one scale, from 0 to the block's largest weight.

    Args:
        image: at its original size.
        mask: bool [height, width], predicted for this expression; outlined over each region.
        attention: of the expression.
        block: counted from 0.
    """
    largest = float(attention.blocks[block].max())
    columns = min(COLUMNS, 2 + len(attention.tokens))
    rows = -(-(2 + len(attention.tokens)) // columns)
    panel = _height_of(image, INCHES / columns) + 0.42
    figure = _figure(panel * rows + 0.5 + _title_height(attention.text))
    _title(figure, attention.text)
    axes = figure.subplots(rows, columns, squeeze=False).flatten().tolist()
    for one in axes:
        one.axis("off")
    small, small_mask = _reduced(image, mask)
    _show(axes[0], small, "image")
    _show(axes[1], masked(Panel(small, small_mask, "")), "prediction")
    for word, (one, token) in enumerate(zip(axes[2:], attention.tokens, strict=False)):
        region = attention.region_of(word, block, small_mask.shape)
        top = float(attention.blocks[block, :, :, word].max())
        _show(
            one,
            _heat(small, small_mask, region / (largest or 1)),
            f"{_lines(token, TEXT, INCHES / columns)}\nup to {top:.2f}",
        )
    scale = ScalarMappable(Normalize(0, largest or 1), colormaps[HEAT])
    bar = figure.colorbar(scale, ax=axes, location="bottom", aspect=40, fraction=0.03, pad=0.02)
    bar.set_label(f"weight in A, block {block + 1}", fontsize=8, color=SOFT)
    bar.ax.tick_params(labelsize=7, colors=SOFT)
    return _drawn(figure)


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(INCHES, height), dpi=DPI, layout="constrained", facecolor="white")
    return figure


def _drawn(figure: Figure) -> Image.Image:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")


def _title(figure: Figure, text: str) -> None:
    lines = _lines(text, TITLE, INCHES)
    figure.suptitle(lines, fontsize=TITLE, family=families(lines), color=INK, parse_math=False)


def _title_height(text: str) -> float:
    return 0.1 + 0.18 * (1 + _lines(text, TITLE, INCHES).count("\n"))


def _lines(text: str, points: float, inches: float) -> str:
    """The text in lines that fit; matplotlib draws them in the fonts with which they are measured."""
    return "\n".join(wrapped(drawable(text), caption_font(points * DPI / 72), (inches - 0.2) * DPI))


def _height_of(image: Image.Image, width: float) -> float:
    return width * min(image.height / image.width, TALLEST)


def _reduced(image: Image.Image, mask: NDArray[np.bool_]) -> tuple[Image.Image, NDArray[np.bool_]]:
    """The image and its mask, scaled down if a side is longer than ``LONGEST``."""
    scale = LONGEST / max(image.size)
    if scale >= 1:
        return image, mask
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    return image.resize(size, Image.Resampling.LANCZOS), resized_mask(mask, size)


def _show(axes: Axes, image: Image.Image, title: str, size: tuple[int, int] | None = None) -> None:
    """Draw the image; the axes count pixels of an image of ``size`` (width, height), by default its own."""
    width, height = size or image.size
    extent = (-0.5, width - 0.5, height - 0.5, -0.5)
    axes.imshow(np.asarray(image), interpolation="antialiased", aspect="equal", extent=extent)
    axes.set_title(title, fontsize=TEXT, family=families(title), color=INK, parse_math=False, pad=3)
    axes.axis("off")


def _mark(axes: Axes, attention: Attention, pixel: tuple[int, int], name: str) -> None:
    """Draw the borders of the token that contains a pixel."""
    left, top, right, bottom = attention.geometry.pixels_of(*attention.geometry.token_of(*pixel))
    for colour, width in (("white", 2.6), (MARK, 1.4)):
        axes.add_patch(
            Rectangle(
                (left - 0.5, top - 0.5), right - left, bottom - top, fill=False, edgecolor=colour, lw=width
            )
        )
    if name:
        # Beside the token, on the side where the image has room.
        on_right = left + right < attention.geometry.width
        axes.annotate(
            name,
            (right if on_right else left, (top + bottom) / 2),
            xytext=(3 if on_right else -3, 0),
            textcoords="offset points",
            fontsize=8,
            color="white",
            ha="left" if on_right else "right",
            va="center",
            bbox={"boxstyle": "round,pad=0.15", "facecolor": MARK, "edgecolor": "white", "linewidth": 0.8},
        )


def _bars(axes: Axes, tokens: Sequence[str], weights: NDArray[np.float32], title: str) -> None:
    places = np.arange(len(tokens))
    # Among equal weights the first words are chosen, so that the picture is deterministic.
    most = np.argsort(-weights, kind="stable")[:INFORMATIVE].tolist()
    strongest = {place for place in most if weights[place] >= LEAST}
    colours = [STRONG_BAR if place in strongest else BAR for place in places]
    axes.barh(places, weights, color=colours, height=0.7)
    for place, weight in enumerate(weights):
        axes.text(
            float(weight) + 0.02,
            place,
            f"{weight:.2f}",
            va="center",
            fontsize=7,
            color=INK if place in strongest else SOFT,
        )
    axes.set_xlim(0, 1.22)
    axes.set_xticks([0, 0.5, 1])
    axes.set_ylim(len(tokens) - 0.5, -0.5)
    names = [_lines(token, 8, INCHES / 4) for token in tokens]
    axes.set_yticks(places, names, fontsize=8, family=families("".join(names)), parse_math=False)
    axes.tick_params(axis="y", length=0, colors=INK)
    axes.tick_params(axis="x", labelsize=7, colors=SOFT)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#cbd5e1")
    nothing = "" if weights.any() else "\nthe gate keeps no word here"
    axes.set_title(f"{title}{nothing}", fontsize=8, color=SOFT, loc="left")


def _heat(image: Image.Image, mask: NDArray[np.bool_], shares: NDArray[np.float32]) -> Image.Image:
    """``shares`` from 0 to 1, [height, width], as colour over the grey image; the mask outlined."""
    # Brightened, so that the image is still visible where the colour is black.
    grey = 70 + 0.72 * np.asarray(image.convert("L"), dtype=np.float32)[..., None]
    colour = 255 * colormaps[HEAT](shares)[..., :3]
    mixed = (1 - HEAT_OVER_IMAGE) * grey + HEAT_OVER_IMAGE * colour
    picture = Image.fromarray(mixed.clip(0, 255).astype(np.uint8))
    outline(picture, mask, (0, 229, 255))
    return picture
