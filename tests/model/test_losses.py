from __future__ import annotations

import math

import torch

from maris_fast.config import LossSettings
from maris_fast.losses import dice_loss, expression_losses, focal_loss
from maris_fast.model import Segmentation
from maris_fast.train.engine import ModelWithLoss


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


def test_an_empty_target_costs_what_is_predicted_and_nothing_where_nothing_is() -> None:
    empty = torch.zeros(4, 8, 8)
    levels = torch.tensor([-30.0, -5.0, 0.0, 30.0])
    logits = levels[:, None, None].expand(4, 8, 8).clone().requires_grad_()
    losses = expression_losses(logits, empty, LossSettings())
    losses.total.sum().backward()
    p = torch.sigmoid(levels)
    torch.testing.assert_close(losses.dice.detach(), 1 - 1 / (64 * p + 1))
    torch.testing.assert_close(losses.focal.detach(), 0.75 * p**2 * torch.nn.functional.softplus(levels))
    assert losses.total[0] < 1e-9
    assert (losses.total.detach().diff() > 0).all()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()
    # Where something is predicted, lowering the logit of any pixel lowers the loss.
    assert (logits.grad[1:3] > 0).all()


def test_no_target_loss_of_an_empty_and_a_full_mask_computed_by_hand() -> None:
    said = torch.tensor([math.log(3.0), math.log(3.0)])  # p = 3/4 that there is nothing
    targets = torch.zeros(2, 4, 4)
    targets[1, 2, 3] = 1
    logits = torch.randn(2, 4, 4)
    plain = expression_losses(logits, targets, LossSettings())
    losses = expression_losses(logits, targets, LossSettings(no_target_weight=0.5), said)
    wanted = torch.tensor([-math.log(3 / 4), -math.log(1 / 4)])
    torch.testing.assert_close(losses.no_target, wanted)
    torch.testing.assert_close(losses.total, plain.total + 0.5 * wanted)
    assert plain.no_target is None
    assert [len(losses.parts()), len(plain.parts())] == [4, 3]


def test_the_objective_adds_no_target_counts_the_emptied_masks_and_leaves_out_padding() -> None:
    class Says(torch.nn.Module):
        def forward(self, logits: torch.Tensor, no_target: torch.Tensor, *_: object) -> Segmentation:
            return Segmentation(logits, no_target)

    logits = torch.ones(4, 4, 4)  # every pixel
    targets = torch.tensor([[[1] * 4] * 4, [[0] * 4] * 4, [[1] * 4] * 4, [[1] * 4] * 4])
    said = torch.tensor([-2.0, 2.0, 2.0, -2.0])
    weights = torch.tensor([1.0, 1.0, 1.0, 0.0])  # the last is padding
    settings = LossSettings(no_target_weight=0.3)
    total, sums, overlap = ModelWithLoss(Says(), settings, "fp32")(
        logits, said, torch.ones(4), torch.ones(4), targets, weights
    )
    alone = expression_losses(logits[:3], targets[:3], settings, said[:3])
    torch.testing.assert_close(sums, torch.stack([part.sum() for part in alone.parts()]))
    torch.testing.assert_close(total, alone.focal.sum() + alone.dice.sum() + 0.3 * alone.no_target.sum())
    assert overlap.tolist() == [16, 32]  # the third is emptied, wrongly; the second rightly


def test_an_emptied_mask_stays_empty_at_any_size_and_threshold() -> None:
    said = Segmentation(torch.randn(2, 8, 8), torch.tensor([1e-3, 0.0]))
    answer = said.answer()
    assert torch.equal(answer[1], said.logits[1])
    for mode in ("bilinear", "bicubic"):
        resized = torch.nn.functional.interpolate(answer[:, None], (33, 21), mode=mode)[:, 0]
        assert resized.isfinite().all()
        assert torch.sigmoid(resized[0]).max() < 1e-30
    assert torch.equal(said._replace(no_target=None).answer(), said.logits)
