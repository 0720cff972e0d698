"""What a scene holds: a few upright shapes that do not overlap. Lengths are fractions of the image's side."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

COLOURS = {
    "red": (215, 35, 35),
    "green": (35, 160, 55),
    "blue": (40, 75, 225),
    "yellow": (240, 220, 35),
    "purple": (150, 45, 190),
    "white": (245, 245, 245),
}
RADII = {"small": 0.08, "medium": 0.115, "large": 0.165}
RADIUS_JITTER = 0.06
BAR_ASPECT = 2.5
GAP = 0.015
MIN_OBJECTS, MAX_OBJECTS = 3, 5


@dataclass(frozen=True, slots=True)
class SceneObject:
    """One object; ``x`` and ``y`` are the centre of its box, ``radius`` that of a disc of the same area."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float

    @property
    def half_width(self) -> float:
        return self.radius * _HALF_EXTENT[self.shape][0]

    @property
    def half_height(self) -> float:
        return self.radius * _HALF_EXTENT[self.shape][1]

    def outline(self) -> NDArray[np.float64]:
        """Vertices [n, 2] of x, y."""
        return OUTLINES[self.shape] * self.radius + (self.x, self.y)


def _normalised(vertices: NDArray[np.float64]) -> NDArray[np.float64]:
    """The polygon with its box centred at 0 and the unit disc's area: no shape is larger than another."""
    x, y = vertices.T
    area = abs(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2
    centre = (vertices.min(axis=0) + vertices.max(axis=0)) / 2
    return np.asarray((vertices - centre) * np.sqrt(np.pi / area))


def _regular(corners: int) -> NDArray[np.float64]:
    """Corners on the unit circle around 0, the first at the top."""
    angle = 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.sin(angle), -np.cos(angle)], axis=1)


def _rectangle(aspect: float) -> NDArray[np.float64]:
    """Corners of a rectangle around 0, ``aspect`` times as wide as high."""
    return np.array([(-aspect, -1.0), (aspect, -1.0), (aspect, 1.0), (-aspect, 1.0)])


OUTLINES = {
    "circle": _normalised(_regular(64)),
    "square": _normalised(_rectangle(1.0)),
    "bar": _normalised(_rectangle(BAR_ASPECT)),
    "pole": _normalised(_rectangle(1 / BAR_ASPECT)),
}
_HALF_EXTENT = {shape: tuple(np.abs(outline).max(axis=0).tolist()) for shape, outline in OUTLINES.items()}


def sample_scene(rng: np.random.Generator) -> tuple[SceneObject, ...]:
    """3 to 5 objects of two or three shapes and colours, so that most have a similar one to be told from."""
    shapes = rng.permutation(list(OUTLINES))[: rng.integers(2, 4)].tolist()
    colours = rng.permutation(list(COLOURS))[: rng.integers(2, 4)].tolist()
    wanted = int(rng.integers(MIN_OBJECTS, MAX_OBJECTS + 1))
    objects: list[SceneObject] = []
    while len(objects) < wanted:
        shape, colour = shapes[rng.integers(len(shapes))], colours[rng.integers(len(colours))]
        placed = _place(shape, colour, objects, rng)
        if placed is None:  # no room left: start over
            objects.clear()
        else:
            objects.append(placed)
    return tuple(objects)


def _place(
    shape: str, colour: str, others: list[SceneObject], rng: np.random.Generator
) -> SceneObject | None:
    size = list(RADII)[rng.integers(len(RADII))]
    radius = RADII[size] * rng.uniform(1 - RADIUS_JITTER, 1 + RADIUS_JITTER)
    room = np.array(_HALF_EXTENT[shape]) * radius + GAP
    for x, y in rng.uniform(room, 1 - room, size=(30, 2)).tolist():
        placed = SceneObject(shape, colour, size, x, y, radius)
        if not any(_touch(placed, other) for other in others):
            return placed
    return None


def _touch(a: SceneObject, b: SceneObject) -> bool:
    return (
        abs(a.x - b.x) < a.half_width + b.half_width + GAP
        and abs(a.y - b.y) < a.half_height + b.half_height + GAP
    )
