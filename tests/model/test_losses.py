from __future__ import annotations

import math

import torch

from maris_fast.config import LossSettings
from maris_fast.losses import dice_loss, expression_losses, focal_loss


def test_focal_loss_of_two_pixels_computed_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)]]])  # p = 1/2 and 3/4
    targets = torch.tensor([[[1.0, 0.0]]])
    wanted = (0.25 * 0.5**2 * math.log(2) + 0.75 * 0.75**2 * math.log(4)) / 2
    torch.testing.assert_close(focal_loss(logits, targets, 0.25, 2.0), torch.tensor([wanted]))


def test_dice_loss_of_two_pixels_computed_by_hand() -> None:
    logits = torch.tensor([[[0.0, math.log(3.0)]]])
    targets = torch.tensor([[[1.0, 0.0]]])
    wanted = 1 - (2 * 0.5 + 1) / (1.25 + 1 + 1)
    torch.testing.assert_close(dice_loss(logits, targets), torch.tensor([wanted]))


def test_each_expression_has_a_loss_of_its_own() -> None:
    logits, targets = torch.randn(3, 4, 5), torch.rand(3, 4, 5) > 0.5
    together = expression_losses(logits, targets, LossSettings(focal_weight=2.0, dice_weight=0.5))
    for e in range(3):
        alone = expression_losses(logits[e : e + 1], targets[e : e + 1], LossSettings())
        torch.testing.assert_close(together.focal[e], alone.focal[0])
        torch.testing.assert_close(together.dice[e], alone.dice[0])
    torch.testing.assert_close(together.total, 2 * together.focal + 0.5 * together.dice)


def test_huge_logits_give_finite_losses_and_gradients() -> None:
    logits = torch.tensor([[[1e4, -1e4, 1e4, -1e4]]], requires_grad=True)
    losses = expression_losses(logits, torch.tensor([[[1, 0, 0, 1]]]), LossSettings())
    losses.total.sum().backward()
    assert losses.total.isfinite().all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


def test_bf16_logits_are_scored_in_fp32() -> None:
    logits = torch.randn(2, 8, 8).bfloat16()
    targets = torch.rand(2, 8, 8) > 0.5
    wanted = expression_losses(logits.float(), targets, LossSettings())
    assert torch.equal(expression_losses(logits, targets, LossSettings()).total, wanted.total)
