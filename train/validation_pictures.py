"""Predictions for a few fixed expressions of a split, drawn at each evaluation to show progress."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

from maris_fast.errors import InputError
from maris_fast.images import load_image
from maris_fast.pictures.overlays import Panel, sheet
from maris_fast.rle import Rle
from maris_fast.sample import Predicted, Sample

GREY = (150, 150, 150)
COLUMNS = 4


class SampleMasks:
    """Keeps the masks of ``wanted`` expressions of a split, at most one per image; None: one per image.

    The choice depends only on hashes of their ids: it is the same at each evaluation, for any number of ranks
    and any order of the batches, and independent of their scores.
    """

    def __init__(self, wanted: int | None) -> None:
        self._wanted = wanted
        self._kept: dict[int, Predicted] = {}

    def see(self, sample: Sample, prediction: Tensor) -> None:
        """Called with every expression of this rank and its mask at the image's own size, on any device."""
        if self._is_wanted(sample):
            self._keep(Predicted(sample, Rle.encode(prediction.numpy(force=True))))

    def kept(self) -> list[Predicted]:
        return sorted(self._kept.values(), key=_order)

    def merge(self, others: Iterable[Predicted]) -> None:
        """Adds what another rank has kept."""
        for one in others:
            if self._is_wanted(one.sample):
                self._keep(one)

    def _is_wanted(self, sample: Sample) -> bool:
        if self._wanted == 0:
            return False
        same = self._kept.get(sample.image_id)
        if same is not None:
            return order_of(sample) < _order(same)
        return self._has_room() or order_of(sample) < max(map(_order, self._kept.values()))

    def _has_room(self) -> bool:
        return self._wanted is None or len(self._kept) < self._wanted

    def _keep(self, one: Predicted) -> None:
        self._kept[one.sample.image_id] = one
        if self._wanted is not None and len(self._kept) > self._wanted:
            del self._kept[max(self._kept.values(), key=_order).sample.image_id]


class SampleSheet:
    """Draws kept masks over their images, or over grey if the images are not on this machine."""

    def __init__(self, image_root: Path) -> None:
        self._image_root = image_root
        self._said = False

    def draw(self, drawn: Sequence[Predicted], say: Callable[[str], None]) -> Image.Image:
        """Prediction pink, truth green, the expression below; ``say`` reports missing images once."""
        panels = [
            Panel(
                self.background(one.sample, say),
                one.mask.decode(),
                one.sample.text,
                one.sample.target.decode(),
            )
            for one in drawn
        ]
        return sheet(panels, columns=COLUMNS)

    def background(self, sample: Sample, say: Callable[[str], None]) -> Image.Image:
        """The expression's image, or a grey one of its size."""
        height, width = sample.target.size
        try:
            return load_image(self._image_root / sample.image, (height, width), sample.orientation)
        except InputError as error:
            if not self._said:
                say(f"masks are drawn on grey, as the images are not here: {error}")
            self._said = True
            return Image.new("RGB", (width, height), GREY)


def order_of(sample: Sample) -> bytes:
    """Sort key for an order of expressions that is unrelated to their content."""
    # The image's hash comes first, so that one with many expressions is no more likely to be chosen.
    return b"".join(
        hashlib.sha256(str(one).encode()).digest()[:8] for one in (sample.image_id, sample.sent_id)
    )


def _order(one: Predicted) -> bytes:
    return order_of(one.sample)
