"""Focal and dice loss (eq. 9), one value an expression, so that any grouping over ranks can weigh them."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maris_fast.config import LossSettings


class ExpressionLosses(NamedTuple):
    """Each [E], fp32; ``total`` is their weighted sum."""

    focal: Tensor
    dice: Tensor
    total: Tensor


def expression_losses(logits: Tensor, targets: Tensor, settings: LossSettings) -> ExpressionLosses:
    """Losses of logits [E, H, W] against masks [E, H, W] of 0 and 1 (any dtype), in fp32."""
    logits = logits.float()
    targets = targets.to(logits.dtype)
    focal = focal_loss(logits, targets, settings.focal_alpha, settings.focal_gamma)
    dice = dice_loss(logits, targets)
    return ExpressionLosses(focal, dice, settings.focal_weight * focal + settings.dice_weight * dice)


def focal_loss(logits: Tensor, targets: Tensor, alpha: float, gamma: float) -> Tensor:
    """-α_t (1 - p_t)^γ log p_t (Lin et al. 2017), mean over pixels, [E]."""
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    p = torch.sigmoid(logits)
    p_t = p * targets + (1 - p) * (1 - targets)
    alpha_t = alpha * targets + (1 - alpha) * (1 - targets)
    return (alpha_t * (1 - p_t) ** gamma * cross_entropy).mean(dim=(1, 2))


def dice_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - (2 Σ p t + 1) / (Σ p + Σ t + 1) (Milletari et al. 2016, with the usual 1), [E]."""
    p = torch.sigmoid(logits)
    overlap = (p * targets).sum(dim=(1, 2))
    return 1 - (2 * overlap + 1) / (p.sum(dim=(1, 2)) + targets.sum(dim=(1, 2)) + 1)
