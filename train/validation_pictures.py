"""A few fixed expressions of a split, drawn at each evaluation: what the model sees, over time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maris_fast.errors import InputError
from maris_fast.images import Orientation, load_image
from maris_fast.pictures.overlays import Panel, sheet
from maris_fast.rle import Rle

GREY = (150, 150, 150)
COLUMNS = 4


class Shown(Protocol):
    """What is kept of an expression."""

    @property
    def image_id(self) -> int: ...
    @property
    def image(self) -> str: ...
    @property
    def orientation(self) -> Orientation: ...
    @property
    def sent_id(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def target(self) -> Rle: ...


class Pictured(Protocol):
    """What says which image stands behind a mask."""

    @property
    def image(self) -> str: ...
    @property
    def orientation(self) -> Orientation: ...
    @property
    def target(self) -> Rle: ...


@dataclass(frozen=True)
class Drawn:
    """One expression with its predicted mask, small enough to be sent to rank 0."""

    order: bytes
    image_id: int
    image: str
    text: str
    target: Rle
    prediction: Rle
    orientation: Orientation = "stored"


class SampleMasks:
    """Keeps the masks of ``wanted`` expressions of a split, each of an image of its own; None: of all images.

    Which ones follows from hashes of their ids alone: the same at each evaluation, on any number of ranks and
    in any order of the batches, and not chosen by how well they go.
    """

    def __init__(self, wanted: int | None) -> None:
        self._wanted = wanted
        self._kept: dict[int, Drawn] = {}

    def see(self, sample: Shown, prediction: NDArray[np.bool_]) -> None:
        """Called with every expression of this rank and its mask at the image's own size."""
        order = order_of(sample.image_id, sample.sent_id)
        if self._is_wanted(sample.image_id, order):
            mask = Rle.encode(prediction)
            one = (sample.image_id, sample.image, sample.text, sample.target, mask, sample.orientation)
            self._keep(Drawn(order, *one))

    def kept(self) -> list[Drawn]:
        return sorted(self._kept.values(), key=lambda one: one.order)

    def merge(self, others: Iterable[Drawn]) -> None:
        """Adds what another rank has kept."""
        for one in others:
            if self._is_wanted(one.image_id, one.order):
                self._keep(one)

    def _is_wanted(self, image_id: int, order: bytes) -> bool:
        if self._wanted == 0:
            return False
        same = self._kept.get(image_id)
        if same is not None:
            return order < same.order
        return self._has_room() or order < max(one.order for one in self._kept.values())

    def _has_room(self) -> bool:
        return self._wanted is None or len(self._kept) < self._wanted

    def _keep(self, one: Drawn) -> None:
        self._kept[one.image_id] = one
        if self._wanted is not None and len(self._kept) > self._wanted:
            del self._kept[max(self._kept.values(), key=lambda one: one.order).image_id]


class SampleSheet:
    """Draws kept masks over their images, or over grey where those are not on this machine."""

    def __init__(self, image_root: Path) -> None:
        self._image_root = image_root
        self._said = False

    def draw(self, drawn: Sequence[Drawn], say: Callable[[str], None]) -> Image.Image:
        """Prediction pink, truth green, the expression below; ``say`` hears once of missing images."""
        panels = [
            Panel(self.background(one, say), one.prediction.decode(), one.text, one.target.decode())
            for one in drawn
        ]
        return sheet(panels, columns=COLUMNS)

    def background(self, one: Pictured, say: Callable[[str], None]) -> Image.Image:
        """The expression's image, or grey of its size."""
        height, width = one.target.size
        try:
            return load_image(self._image_root / one.image, (height, width), one.orientation)
        except InputError as error:
            if not self._said:
                say(f"masks are drawn on grey, as the images are not here: {error}")
            self._said = True
            return Image.new("RGB", (width, height), GREY)


def order_of(image_id: int, sent_id: int) -> bytes:
    """Sorts expressions in an order that has nothing to do with what they are about."""
    # The image's hash comes first, so that one with many expressions is no more likely than another.
    return b"".join(hashlib.sha256(str(one).encode()).digest()[:8] for one in (image_id, sent_id))
