"""One expression, as passed from the reader to scores, pictures and reports."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from maris_fast.geometry import ImageGeometry
from maris_fast.images import Orientation
from maris_fast.rle import Rle


class Key(NamedTuple):
    """Identifies an expression; scores are in this order."""

    image_id: int
    ref_id: int
    sent_id: int


@dataclass(frozen=True)
class Sample:
    """What is known about one expression."""

    image_id: int
    ref_id: int
    sent_id: int
    text: str
    """The sentence that the model reads; with expressions exchanged, that of the other object."""
    target: Rle
    """The mask at the image's own size."""
    geometry: ImageGeometry
    image: str = ""
    """Path below the data set's image root."""
    orientation: Orientation = "stored"
    """The view of the image that the mask is for."""
    ann_ids: tuple[int, ...] = ()
    """Annotations of the objects that the sentence refers to; empty if there are none."""
    category: str = ""
    kind: str | None = None
    """Kind of the expression, if the data set names one."""
    first: bool = True
    """Whether this is the first sentence of its ref."""
    overlap: Rle | None = None
    """Pixels inside several of one annotation's polygons; None: unknown."""
    tokens: tuple[str, ...] = ()
    """Readable form of the L_t words; () if they have not been encoded."""

    @property
    def key(self) -> Key:
        return Key(self.image_id, self.ref_id, self.sent_id)


@dataclass(frozen=True)
class Predicted:
    """A sample and the mask that a model predicts, at the image's own size."""

    sample: Sample
    mask: Rle
