"""Mask targets at the decoder's resolution, and their packed form."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from maris_fast.geometry import MASK_STRIDE, PATCH, ImageGeometry


def mask_target(mask: NDArray[np.bool_], geometry: ImageGeometry) -> NDArray[np.bool_]:
    """The target of the decoder's logits: the mask resized like the image, at a quarter of its resolution.

    Resized bilinearly (antialiased), zero-padded to the grid's border, averaged over 4 x 4 blocks, and true
    from 0.5 on. An object too small for that keeps its best-covered pixels: a target must not vanish.

    Args:
        mask: [height, width].
        geometry: of the image.

    Returns:
        [4h, 4w].
    """
    whole = torch.from_numpy(mask).float()[None, None]
    resized = F.interpolate(
        whole, (geometry.h_px, geometry.w_px), mode="bilinear", align_corners=False, antialias=True
    )
    beyond = (0, PATCH * geometry.w - geometry.w_px, 0, PATCH * geometry.h - geometry.h_px)
    coverage = F.avg_pool2d(F.pad(resized, beyond), MASK_STRIDE)[0, 0].numpy()
    target: NDArray[np.bool_] = coverage >= 0.5
    if not target.any() and coverage.max() > 0:
        target = coverage == coverage.max()
    return target


def pack_masks(targets: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """[T, 4h, 4w] to bits, [T, 4h, ceil(4w / 8)], the first pixel in the highest bit.

    Its inverse is ``stream.device.unpack_masks``.
    """
    return np.packbits(targets, axis=-1)
