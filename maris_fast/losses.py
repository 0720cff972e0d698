"""Focal and dice loss (eq. 9), one value per expression, so that any grouping over ranks can weight them.

A model with a no-target output has a third loss, the cross-entropy of that output. ``pixel_overlap`` counts
the pixels by which a training step is scored (``scoring`` has all other scores).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from maris_fast.config import LossSettings


class ExpressionLosses(NamedTuple):
    """Each is [E], fp32; ``total`` is their weighted sum. ``no_target`` is None if the model has none."""

    focal: Tensor
    dice: Tensor
    total: Tensor
    no_target: Tensor | None = None

    def parts(self) -> list[Tensor]:
        """The losses that are not None, in order: focal, dice, total and possibly no_target."""
        return [part for part in self if part is not None]


def expression_losses(
    logits: Tensor, targets: Tensor, settings: LossSettings, no_target: Tensor | None = None
) -> ExpressionLosses:
    """Losses in fp32 of logits [E, H, W], and of ``no_target`` [E], against masks [E, H, W] of 0 and 1.

    Masks may be of any dtype, or empty: the dice loss is then 0 if nothing is predicted, and grows with Σp.
    """
    logits = logits.float()
    targets = targets.to(logits.dtype)
    focal = focal_loss(logits, targets, settings.focal_alpha, settings.focal_gamma)
    dice = dice_loss(logits, targets)
    total = settings.focal_weight * focal + settings.dice_weight * dice
    if no_target is None:
        return ExpressionLosses(focal, dice, total)
    absent = no_target_loss(no_target.float(), targets)
    return ExpressionLosses(focal, dice, total + settings.no_target_weight * absent, absent)


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


def no_target_loss(no_target: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy of logits [E] against whether a mask [E, H, W] has no pixel, [E]."""
    empty = (targets == 0).flatten(1).all(dim=1)
    return F.binary_cross_entropy_with_logits(no_target, empty.to(no_target.dtype), reduction="none")


def pixel_overlap(logits: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
    """ΣI and ΣU of a batch, int64 [2], on the logits' device, without synchronising with it.

    Args:
        logits: [E, H, W]; a pixel is predicted where > 0.
        targets: [E, H, W] of 0 and 1, any dtype.
        weights: [E]; an expression of weight 0 is padding and is not counted.
    """
    real = (weights > 0)[:, None, None]
    predicted, wanted = (logits > 0) & real, (targets > 0) & real
    return torch.stack([(predicted & wanted).sum(), (predicted | wanted).sum()])
