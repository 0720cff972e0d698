"""The number of trainable parameters, by part of the model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from maris_fast.config import ModelSettings
from maris_fast.model.maris import Maris

VIT_H_CHANNELS, CLIP_L_CHANNELS = 1280, 768
"""C_v and C' of the encoders that the paper's features come from."""


@dataclass(frozen=True)
class ParameterCounts:
    """Counts of enhancement, fusion (without MA blocks: words' projection), decoder and no-target output."""

    enhancement: int
    fusion: int
    decoder: int
    no_target: int

    @property
    def total(self) -> int:
        return self.enhancement + self.fusion + self.decoder + self.no_target


def parameter_counts(
    settings: ModelSettings, visual_channels: int = VIT_H_CHANNELS, text_channels: int = CLIP_L_CHANNELS
) -> ParameterCounts:
    """Parameter counts of the model itself, built on the meta device and so without memory."""
    with torch.device("meta"):
        model = Maris(settings, visual_channels, text_channels)
    return ParameterCounts(
        enhancement=_count(model.feature_enhancement),
        fusion=_count(model.ma_blocks) + _count(model.project_words),
        decoder=_count(model.mask_decoder),
        no_target=_count(model.no_target),
    )


def _count(part: nn.Module | None) -> int:
    return sum(parameter.numel() for parameter in part.parameters()) if part is not None else 0
