"""The pixel grid on which a script compares: how logits and the ground truth are mapped to it.

Each peer's network has its own input geometry, and ours has SAM's. What is shared is everything after the
network: a canvas takes our logits as if the peer's network had output them, and resizes them as the peer
does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maris_fast.geometry import MASK_STRIDE, ImageGeometry, bilinear, to_size


class Canvas(Protocol):
    """Frozen and hashable: protocols that share a canvas share its values.

    An expression's values are bitwise independent of the other expressions in its batch.
    """

    probabilities: ClassVar[bool]
    """Whether ``values`` takes and returns probabilities instead of logits."""

    def values(self, given: Tensor, geometry: ImageGeometry) -> Tensor:
        """The values [E, H, W] on the canvas, as the peer thresholds them.

        Args:
            given: ``probabilities_of`` logits, [E, 4h, 4w]; or logits on the resized image, [E, h_px, w_px].
            geometry: of the image.
        """

    def truth(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """The truth [H, W] on the canvas, from a mask at the image's own size."""


def probabilities_of(logits: Tensor) -> Tensor:
    """Probabilities [E, 4h, 4w], from logits of that shape."""
    # One by one: on a CPU, a tensor's last elements are computed with a different exponential.
    return stacked([one.sigmoid() for one in logits])


def stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Stack to [E, ...]; a single tensor is not copied."""
    return torch.stack(list(tensors)) if len(tensors) > 1 else tensors[0][None]


@dataclass(frozen=True)
class Original:
    """Logits at the image's own size: SAM's ``postprocess_masks``, which LISA's evaluation also calls."""

    probabilities: ClassVar[bool] = False

    def values(self, given: Tensor, geometry: ImageGeometry) -> Tensor:
        return bilinear(given, (geometry.height, geometry.width))

    def truth(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return mask


@dataclass(frozen=True)
class Squashed:
    """Logits and truth on a square, whatever the image's shape; the truth by nearest neighbour."""

    probabilities: ClassVar[bool] = False
    size: int

    def values(self, given: Tensor, geometry: ImageGeometry) -> Tensor:
        return bilinear(given, (self.size, self.size))

    def truth(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        rows, columns = (_nearest(side, self.size) for side in mask.shape)
        return mask.take(rows, axis=0).take(columns, axis=1)


@lru_cache(maxsize=256)
def _nearest(side: int, size: int) -> NDArray[np.int32]:
    """[size]: index of the nearest of ``side`` pixels; ties are rounded as in Pillow, which LAVT calls."""
    places = Image.fromarray(np.arange(side, dtype=np.int32)[None])
    return np.asarray(places.resize((size, 1), Image.Resampling.NEAREST))[0]


@dataclass(frozen=True)
class Letterboxed:
    """Probabilities in the middle of a square, cropped by whole pixels, resized to the image's own size."""

    probabilities: ClassVar[bool] = True
    size: int

    def values(self, given: Tensor, geometry: ImageGeometry) -> Tensor:
        own = geometry.height, geometry.width
        scale = min(self.size / n for n in own)
        inner = max(1, int(own[0] * scale)), max(1, int(own[1] * scale))
        return bilinear(to_size(given, geometry, inner), own)

    def truth(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return mask


@dataclass(frozen=True)
class Warped:
    """Probabilities on a square with the image centred, warped to the image's own size by a cubic kernel.

    Outside the image the square is 0, which is what a network is trained to output there. The sides are
    independent, so both warps together are one matrix per side: M_y P M_xᵀ.
    """

    probabilities: ClassVar[bool] = True
    size: int

    def values(self, given: Tensor, geometry: ImageGeometry) -> Tensor:
        scale = min(self.size / geometry.height, self.size / geometry.width)
        h, w = geometry.mask_size
        kind = given.dtype, given.device
        rows = _there_and_back(self.size, scale, geometry.height, geometry.h_px, h, *kind)
        columns = _there_and_back(self.size, scale, geometry.width, geometry.w_px, w, *kind)
        # One by one: the summation order of a matrix product depends on the batch size.
        return stacked([rows @ one @ columns.T for one in given])

    def truth(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return mask


@lru_cache(maxsize=256)
def _there_and_back(
    size: int,
    scale: float,
    own: int,
    resized: int,
    logits: int,
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """Matrix [own, logits] of one side: from logits to the square of ``size``, then to ``own`` pixels.

    As in OpenCV's warps, a pixel's position is its index: index i of the image is at ``scale`` i + margin.
    """
    margin = (size - own * scale) / 2
    place = (torch.arange(size, dtype=torch.float64) - margin) / scale
    inside = (place >= -0.5) & (place <= own - 0.5)
    there = cubic((place + 0.5) * resized / own / MASK_STRIDE - 0.5, logits, beyond="edge")
    back = cubic(torch.arange(own, dtype=torch.float64) * scale + margin, size, beyond="zero")
    return (back @ (there * inside[:, None])).to(device, dtype)


def cubic(places: Tensor, pixels: int, *, beyond: str) -> Tensor:
    """[P, pixels]: the weights of cubic interpolation at ``places``, with OpenCV's and torch's a = -0.75.

    Args:
        places: [P], where 0 is the first pixel's centre.
        beyond: "edge" repeats the border's pixels, "zero" pads with zeros.
    """
    a = -0.75
    weights = places.new_zeros(len(places), pixels)
    for tap in (-1, 0, 1, 2):
        at = places.floor() + tap
        d = (places - at).abs()
        near = ((a + 2) * d - (a + 3)) * d**2 + 1
        far = ((d - 5) * d + 8) * d * a - 4 * a
        weight = torch.where(d <= 1, near, far)
        if beyond == "zero":
            weight = weight * ((at >= 0) & (at < pixels))
        weights.scatter_add_(1, at.long().clamp(0, pixels - 1)[:, None], weight[:, None])
    return weights
