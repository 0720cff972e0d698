"""#1, without feature enhancement: SAM's last map alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from maris_fast.model.feature_enhancement import normalised


class LastMap(nn.Module):
    """F_v = F_v3 W + b."""

    def __init__(self, visual_channels: int, channels: int, input_norm: str) -> None:
        super().__init__()
        self.input_norm = input_norm
        self.linear = nn.Linear(visual_channels, channels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Three maps [I, h, w, C_v], shallow to deep -> F_v [I, h, w, C]."""
        return self.linear(normalised(features[-1], self.input_norm))
