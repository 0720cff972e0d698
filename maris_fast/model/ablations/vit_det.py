"""#11, ViT-Det (Li et al. 2022): a feature pyramid from the last map alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maris_fast.model.feature_enhancement import normalised
from maris_fast.model.layers import CBA, MapLayerNorm, on_map


class VitDetPyramid(nn.Module):
    """Scales 4, 2, 1 and 1/2 of the last map, each with C channels; then merged into one map at scale 1.

    The pyramid is detectron2's SimpleFeaturePyramid. Merging it by pooling or upsampling each level,
    concatenating the channels and one CBA, as in eqs. 1-2, is this project's guess.
    """

    def __init__(self, visual_channels: int, channels: int, input_norm: str) -> None:
        super().__init__()
        C_v = visual_channels
        self.input_norm = input_norm
        self.scale_4 = nn.Sequential(
            _doubling(C_v, C_v // 2),
            MapLayerNorm(C_v // 2),
            nn.GELU(),
            _doubling(C_v // 2, C_v // 4),
            _lateral(C_v // 4, channels),
        )
        self.scale_2 = nn.Sequential(_doubling(C_v, C_v // 2), _lateral(C_v // 2, channels))
        self.scale_1 = _lateral(C_v, channels)
        # Unlike ViT-Det's, a grid may have an odd side: its last row is then pooled alone.
        self.scale_half = nn.Sequential(nn.MaxPool2d(2, ceil_mode=True), _lateral(C_v, channels))
        self.cba = CBA(4 * channels, channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Three maps [I, h, w, C_v], shallow to deep -> F_v [I, h, w, C]."""
        return on_map(self._on_map, normalised(features[-1], self.input_norm))

    def _on_map(self, last: Tensor) -> Tensor:
        levels = (
            F.avg_pool2d(self.scale_4(last), 4),
            F.avg_pool2d(self.scale_2(last), 2),
            self.scale_1(last),
            F.interpolate(self.scale_half(last), last.shape[2:], mode="bilinear", align_corners=False),
        )
        return self.cba(torch.cat(levels, dim=1))


def _doubling(channels_in: int, channels_out: int) -> nn.Module:
    return nn.ConvTranspose2d(channels_in, channels_out, kernel_size=2, stride=2)


def _lateral(channels_in: int, channels: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels, kernel_size=1, bias=False),
        MapLayerNorm(channels),
        nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False),
        MapLayerNorm(channels),
    )
