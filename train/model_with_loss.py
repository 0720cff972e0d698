"""Model and loss as the one module that DeepSpeed wraps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from maris_fast.config import LossSettings
from maris_fast.losses import expression_losses
from maris_fast.metrics import pixel_overlap


class ModelWithLoss(nn.Module):
    """The loss of a batch, summed over expressions; the model runs in ``precision``, the loss in fp32."""

    def __init__(self, model: nn.Module, settings: LossSettings, precision: Literal["fp32", "bf16"]) -> None:
        super().__init__()
        self.model = model
        self.settings = settings
        self.bf16 = precision == "bf16"

    def forward(
        self,
        features: Sequence[Tensor],
        words: Tensor,
        word_mask: Tensor,
        expr_offsets: Tensor,
        targets: Tensor,
        weights: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The model's arguments, targets [E, 4h, 4w], weights [E] (0: padding).

        Returns the summed total, with a graph; without one, [3] the sums of focal, dice and total (fourth, of
        no-target where the model has this output) and ``pixel_overlap``.
        """
        with torch.autocast(words.device.type, torch.bfloat16, enabled=self.bf16):
            said = self.model(features, words, word_mask, expr_offsets)
        losses = expression_losses(said.logits, targets, self.settings, said.no_target)
        sums = torch.stack([(weights * part).sum() for part in losses.parts()])
        return sums[2], sums.detach(), pixel_overlap(said.answer().detach(), targets, weights)
