"""The pixels on which a script compares: how logits get there, and how the truth does.

Each peer's network has an input geometry of its own, and ours has SAM's. What is shared is everything behind
the network: a canvas takes our logits as if the peer's network had put them out, and goes the peer's way
back.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from maris_fast.geometry import MASK_STRIDE, ImageGeometry, to_original_size, to_size


class Canvas(Protocol):
    """Frozen and hashable: protocols that share a canvas share its values."""

    probabilities: ClassVar[bool]
    """Whether ``values`` are those, and not logits."""

    def values(self, logits: Tensor, geometry: ImageGeometry) -> Tensor:
        """[H, W] of the canvas, from logits [1, 4h, 4w]; logits or probabilities, as the peer thresholds."""

    def truth(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """[H, W] of the canvas, from a mask at the image's own size."""


@dataclass(frozen=True)
class Original:
    """Logits at the image's own size: SAM's ``postprocess_masks``, which LISA's evaluation calls too."""

    probabilities: ClassVar[bool] = False

    def values(self, logits: Tensor, geometry: ImageGeometry) -> Tensor:
        return to_original_size(logits, geometry)[0]

    def truth(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return mask


@dataclass(frozen=True)
class Squashed:
    """Logits and truth on a square, whatever the image's shape; the truth by its nearest pixels."""

    probabilities: ClassVar[bool] = False
    size: int

    def values(self, logits: Tensor, geometry: ImageGeometry) -> Tensor:
        return to_size(logits, geometry, (self.size, self.size))[0]

    def truth(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        # LAVT's own call: which pixel is nearest in a tie follows from Pillow's rounding.
        image = Image.fromarray(mask.astype(np.uint8))
        return np.asarray(image.resize((self.size, self.size), Image.Resampling.NEAREST)) > 0


@dataclass(frozen=True)
class Letterboxed:
    """Probabilities in a square's middle, cut out in whole pixels and resized to the image's own size."""

    probabilities: ClassVar[bool] = True
    size: int

    def values(self, logits: Tensor, geometry: ImageGeometry) -> Tensor:
        own = geometry.height, geometry.width
        scale = min(self.size / n for n in own)
        inner = max(1, int(own[0] * scale)), max(1, int(own[1] * scale))
        cut_out = to_size(logits.sigmoid(), geometry, inner)
        return F.interpolate(cut_out[:, None], own, mode="bilinear", align_corners=False)[0, 0]

    def truth(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return mask


@dataclass(frozen=True)
class Warped:
    """Probabilities on a square with the image in its middle, warped to the image's own size by a cubic.

    Beyond the image the square holds 0, which is what a network is trained to say there. Sides are
    independent, so the way there and back is one matrix for each: M_y P M_xᵀ.
    """

    probabilities: ClassVar[bool] = True
    size: int

    def values(self, logits: Tensor, geometry: ImageGeometry) -> Tensor:
        scale = min(self.size / geometry.height, self.size / geometry.width)
        h, w = geometry.mask_size
        rows = _there_and_back(self.size, scale, geometry.height, geometry.h_px, h).to(logits)
        columns = _there_and_back(self.size, scale, geometry.width, geometry.w_px, w).to(logits)
        return rows @ logits[0].sigmoid() @ columns.T

    def truth(self, mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return mask


@lru_cache(maxsize=256)
def _there_and_back(size: int, scale: float, own: int, resized: int, logits: int) -> Tensor:
    """[own, logits] of one side: logits to the square of ``size``, and from there to ``own`` pixels.

    As OpenCV's warps do, a pixel's place is its index: index i of the image lies at ``scale`` i + margin.
    """
    margin = (size - own * scale) / 2
    place = (torch.arange(size, dtype=torch.float64) - margin) / scale
    inside = (place >= -0.5) & (place <= own - 0.5)
    there = cubic((place + 0.5) * resized / own / MASK_STRIDE - 0.5, logits, beyond="edge")
    back = cubic(torch.arange(own, dtype=torch.float64) * scale + margin, size, beyond="zero")
    return back @ (there * inside[:, None])


def cubic(places: Tensor, pixels: int, *, beyond: str) -> Tensor:
    """[P, pixels]: the weights of cubic interpolation at ``places``, with OpenCV's and torch's a = -0.75.

    Args:
        places: [P], where 0 is the first pixel's centre.
        beyond: "edge" repeats the border's pixels, "zero" has nothing there.
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
