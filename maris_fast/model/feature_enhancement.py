"""Feature enhancement (FE), eqs. 1-2: SAM's three frozen maps fused into one trained map, once per image."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maris_fast.model.layers import CBA, MLP, on_map


class FeatureEnhancement(nn.Module):
    """F̂ = CBA([MLP(F_v1), MLP(F_v2)]); F_v = CBA([MLP(F̂), MLP(F_v3)])."""

    def __init__(self, visual_channels: int, channels: int, input_norm: str) -> None:
        super().__init__()
        self.input_norm = input_norm
        self.mlp_v1 = MLP(visual_channels, channels, channels)
        self.mlp_v2 = MLP(visual_channels, channels, channels)
        self.mlp_v3 = MLP(visual_channels, channels, channels)
        self.mlp_early = MLP(channels, channels, channels)
        self.cba_early = CBA(2 * channels, channels)
        self.cba = CBA(2 * channels, channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Three maps [I, h, w, C_v], shallow to deep -> F_v [I, h, w, C]."""
        f_v1, f_v2, f_v3 = (normalised(f, self.input_norm) for f in features)
        early = on_map(self.cba_early, torch.cat([self.mlp_v1(f_v1), self.mlp_v2(f_v2)], dim=3))
        return on_map(self.cba, torch.cat([self.mlp_early(early), self.mlp_v3(f_v3)], dim=3))


def normalised(feature: Tensor, input_norm: str) -> Tensor:
    """A frozen map [I, h, w, C_v], unchanged or after a LayerNorm without parameters."""
    return F.layer_norm(feature, feature.shape[-1:]) if input_norm == "layer" else feature
