"""The whole model, trained on the kernels, follows the loss curve it has on the reference."""

from __future__ import annotations

from typing import Literal

import pytest
import torch

from maris_fast.config import LossSettings, ModelSettings
from maris_fast.losses import expression_losses
from maris_fast.model import Maris

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
STEPS = 50


def loss_curve(impl: Literal["triton", "reference"]) -> list[float]:
    """An image with two expressions; each mask is where a feature agrees with the expression."""
    torch.manual_seed(0)
    settings = ModelSettings(channels=32, heads=4, mutual_attention_impl=impl, attention_impl="reference")
    model = Maris(settings, visual_channels=16, text_channels=16).to(DEVICE)
    features = [torch.randn(1, 4, 5, 16).to(DEVICE) for _ in range(3)]
    words = torch.randn(2, 3, 16).to(DEVICE)
    word_mask = (torch.arange(3) < torch.tensor([[3], [2]])).to(DEVICE)
    expr_offsets = torch.tensor([0, 2], dtype=torch.int32, device=DEVICE)
    scores = torch.einsum("ehwc,ec->ehw", features[2][[0, 0]], words[:, 0])
    targets = (scores > 0).repeat_interleave(4, dim=1).repeat_interleave(4, dim=2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for _ in range(STEPS):
        logits = model(features, words, word_mask, expr_offsets).logits
        loss = expression_losses(logits, targets, LossSettings()).total.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.slow
def test_fifty_steps_follow_the_references_curve() -> None:
    on_kernels, on_reference = loss_curve("triton"), loss_curve("reference")
    assert on_reference[-1] < 0.8 * on_reference[0]
    torch.testing.assert_close(on_kernels, on_reference, rtol=2e-3, atol=0)
