"""Renders objects to pixels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from maris_fast.data_shards.synthetic.scene import COLOURS, SceneObject

SUPERSAMPLING = 4
COLOUR_JITTER = 10


def render(
    objects: Sequence[SceneObject], image_size: int, rng: np.random.Generator
) -> tuple[Image.Image, list[NDArray[np.bool_]]]:
    """The picture, RGB of ``image_size`` squared, and each object's pixels as bool [H, W]."""
    picture = _background(image_size, rng)
    masks = []
    for thing in objects:
        coverage, corner = _coverage(thing, image_size)
        jitter = rng.integers(-COLOUR_JITTER, COLOUR_JITTER + 1, size=3)
        red, green, blue = np.clip(np.add(COLOURS[thing.colour], jitter), 0, 255).tolist()
        picture.paste((red, green, blue), corner, coverage)
        full = Image.new("L", picture.size)
        full.paste(coverage, corner)
        masks.append(np.asarray(full) >= 128)
    return picture, masks


def _background(size: int, rng: np.random.Generator) -> Image.Image:
    """A muted colour, a slight gradient in any direction and some grain."""
    colour = rng.uniform(60, 140) + rng.uniform(-18, 18, size=3)
    slope = rng.uniform(-15, 15, size=2)
    ramp = np.linspace(-1, 1, size)
    grain = int(rng.integers(1, 9))
    light = (slope[0] * ramp[:, None] + slope[1] * ramp[None, :]).astype(np.int16)
    light += rng.integers(-grain, grain + 1, size=(size, size), dtype=np.int8)
    # Band by band: numpy is ten times slower over a last axis of three.
    bands = [(light + band).astype(np.uint8) for band in colour.astype(np.int16)]
    return Image.merge("RGB", [Image.fromarray(band) for band in bands])


def _coverage(thing: SceneObject, size: int) -> tuple[Image.Image, tuple[int, int]]:
    """How much of each pixel the object covers ('L', 0 to 255), on its box, and the box's corner."""
    vertices = thing.outline() * size
    corner = np.floor(vertices.min(axis=0)).astype(int)
    extent = np.ceil(vertices.max(axis=0)).astype(int) - corner
    fine = Image.new("L", tuple((extent * SUPERSAMPLING).tolist()))
    # PIL's coordinates refer to the centres of pixels, ours to their corners.
    points = (vertices - corner) * SUPERSAMPLING - 0.5
    ImageDraw.Draw(fine).polygon([(x, y) for x, y in points.tolist()], fill=255)
    return fine.reduce(SUPERSAMPLING), (int(corner[0]), int(corner[1]))
