"""The mapping of an image onto the encoder's token grid, and back to its original size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from maris_fast.errors import InputError

if TYPE_CHECKING:
    import torch

PATCH = 16
"""Side of a token in pixels, in every SAM image encoder."""

MASK_STRIDE = 4
"""Pixels of the resized image per pixel of mask logits: the decoder doubles the grid twice."""

_SMALL = 128
"""Height plus width up to which torch resizes on a CPU with another kernel, which rounds differently."""


@dataclass(frozen=True)
class ImageGeometry:
    """Sizes of an image: its own, resized to the encoder's longest side, and as a grid of tokens.

    The resized image is at the upper left of the grid; the last row and column of tokens may extend
    beyond it by less than one patch.
    """

    height: int
    width: int
    h_px: int
    w_px: int
    h: int
    w: int

    @classmethod
    def of(cls, height: int, width: int, image_size: int) -> ImageGeometry:
        """Geometry of a ``height`` x ``width`` image whose longest side becomes ``image_size`` pixels.

        Raises:
            InputError: the image is so narrow that its short side would vanish.
        """
        # Same as segment-anything's ``ResizeLongestSide``, which would import PyTorch and torchvision.
        scale = image_size / max(height, width)
        h_px, w_px = int(height * scale + 0.5), int(width * scale + 0.5)
        if min(h_px, w_px) == 0:
            raise InputError(
                f"an image of {height} x {width} pixels would be {h_px} x {w_px} when its longest side is "
                f"{image_size}; crop it, or raise encoders.sam.image_size"
            )
        return cls(height, width, h_px, w_px, -(-h_px // PATCH), -(-w_px // PATCH))

    @classmethod
    def unresized(cls, height: int, width: int) -> ImageGeometry:
        """Geometry of an image that is not resized."""
        return cls(height, width, height, width, -(-height // PATCH), -(-width // PATCH))

    @property
    def grid(self) -> tuple[int, int]:
        """Size in tokens, (h, w)."""
        return self.h, self.w

    @property
    def mask_size(self) -> tuple[int, int]:
        """Size of the mask logits in pixels, (4h, 4w)."""
        scale = PATCH // MASK_STRIDE
        return scale * self.h, scale * self.w

    def token_of(self, x: int, y: int) -> tuple[int, int]:
        """Row and column of the token that contains the centre of a pixel of the original image.

        Raises:
            InputError: the pixel is outside the image.
        """
        if not (0 <= x < self.width and 0 <= y < self.height):
            raise InputError(
                f"pixel {x},{y} is outside the image; expected x from 0 to {self.width - 1} and y from 0 "
                f"to {self.height - 1}"
            )
        row, column = (y + 0.5) * self.h_px / self.height, (x + 0.5) * self.w_px / self.width
        return int(row) // PATCH, int(column) // PATCH

    def pixels_of(self, row: int, column: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of a token in the original image, in pixels, clipped to the image."""
        across, down = self.width / self.w_px, self.height / self.h_px
        return (
            PATCH * column * across,
            PATCH * row * down,
            min(PATCH * (column + 1) * across, self.width),
            min(PATCH * (row + 1) * down, self.height),
        )


def to_original_size(logits: torch.Tensor, geometry: ImageGeometry) -> torch.Tensor:
    """Mask logits of one image at the image's own size, [E, height, width]; see ``to_size``."""
    return to_size(logits, geometry, (geometry.height, geometry.width))


def to_size(logits: torch.Tensor, geometry: ImageGeometry, size: tuple[int, int]) -> torch.Tensor:
    """Mask logits of one image, resized to ``size`` as SAM's ``postprocess_masks`` does to the original.

    Args:
        logits: [E, 4h, 4w].
        geometry: of the image; defines h, w and the intermediate sizes.
        size: target height and width.

    Returns:
        [E, *size]: ``to_resized_image``, then bilinear to ``size``.

    Raises:
        ValueError: the logits' size does not match the geometry.
    """
    return bilinear(to_resized_image(logits, geometry), size)


def to_resized_image(logits: torch.Tensor, geometry: ImageGeometry) -> torch.Tensor:
    """Mask logits [E, 4h, 4w], bilinear to (16h, 16w) and cropped to the resized image, [E, h_px, w_px].

    Raises:
        ValueError: the logits' size does not match the geometry.
    """
    if tuple(logits.shape[-2:]) != geometry.mask_size:
        raise ValueError(
            f"logits are {tuple(logits.shape[-2:])}, the geometry's mask is {geometry.mask_size}"
        )
    return _quadrupled(logits)[..., : geometry.h_px, : geometry.w_px]


def _quadrupled(logits: torch.Tensor) -> torch.Tensor:
    """``bilinear`` from [E, H, W] to [E, 4H, 4W], with bitwise the same result."""
    import torch
    import torch.nn.functional as F

    height, width = (MASK_STRIDE * side for side in logits.shape[-2:])
    on_cpu = logits.device.type == "cpu" and logits.dtype == torch.float32
    if not on_cpu or height + width <= _SMALL:
        return bilinear(logits, (height, width))

    # Three times as fast as both sides at once: with columns as channels, torch vectorises over rows.
    wide = bilinear(logits, (logits.shape[-2], width))
    columns = wide[:, :, None].permute(0, 3, 1, 2)
    tall = F.interpolate(columns, (height, 1), mode="bilinear", align_corners=False)
    return tall.permute(0, 2, 3, 1)[:, :, 0]


def bilinear(values: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """[E, H, W] resized to [E, *size]; each result is bitwise independent of the others."""
    import torch.nn.functional as F

    return F.interpolate(values[:, None], size, mode="bilinear", align_corners=False)[:, 0]
