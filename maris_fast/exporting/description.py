"""Metadata of an exported file: JSON under the key ``maris_fast``, as in weights files."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

import torch
from pydantic import BaseModel, ConfigDict

from maris_fast.encoders.sam import PIXEL_MEAN, PIXEL_STD
from maris_fast.exporting.parts import IMPLEMENTATIONS, Part, Slot
from maris_fast.geometry import PATCH
from maris_fast.weights import WeightsMeta

FORMAT_VERSION = 1


class Preprocessing(BaseModel):
    """How a photograph becomes the input of SAM's encoder."""

    model_config = ConfigDict(frozen=True)

    image_size: int
    """Longest side of the resized image, and side of the square that it is padded to."""
    resizing: str = "longest side to image_size, sides rounded half up, Pillow's bilinear filter, RGB"
    mean: tuple[float, float, float] = PIXEL_MEAN
    std: tuple[float, float, float] = PIXEL_STD
    padding: str = "zeros to the right and below, after normalisation"
    patch: int = PATCH
    """Side of a token in pixels: h and w are the resized sides divided by it, rounded up."""


class Description(BaseModel):
    """Metadata of one exported file."""

    model_config = ConfigDict(frozen=True)

    format_version: int = FORMAT_VERSION
    part: str
    license: str | None
    """License of the trained weights; None: unknown."""
    inputs: dict[str, str]
    outputs: dict[str, str]
    preprocessing: Preprocessing
    weights: WeightsMeta
    """The header of the weights' file: the model's settings, scores and encoders."""
    implementations: dict[str, str]
    """Attention implementations in the file, in place of those in the settings."""
    versions: dict[str, str]

    @classmethod
    def of(cls, part: Part, meta: WeightsMeta, license: str | None) -> Description:
        return cls(
            part=part.name,
            license=license,
            inputs=_described(part.inputs),
            outputs=_described(part.outputs),
            preprocessing=Preprocessing(image_size=meta.encoders.sam.image_size),
            weights=meta,
            implementations=IMPLEMENTATIONS,
            versions={"maris-fast": version("maris-fast"), "torch": torch.__version__},
        )


def _described(slots: Mapping[str, Slot]) -> dict[str, str]:
    return {
        name: f"{str(slot.dtype).removeprefix('torch.')} [{', '.join(map(str, slot.shape))}]"
        for name, slot in slots.items()
    }
