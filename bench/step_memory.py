"""What a training step keeps for its backward: bytes per image and per expression, counted on a CPU."""

from __future__ import annotations

from typing import Any

import torch

from maris_fast.bench.measuring import saved_bytes
from maris_fast.config import LossSettings, ModelSettings
from maris_fast.losses import expression_losses
from maris_fast.model import Maris

GRID, WORDS = (64, 48), 16
VISUAL_CHANNELS, TEXT_CHANNELS = 1280, 768
ADAMW_BYTES = 16
"""Per parameter: its fp32 value, gradient and two moments."""


def count() -> list[dict[str, Any]]:
    """A row for each preset's number of heads: bytes of the model's states, of an image and of an expression.

    The paper's model in bf16 on ViT-H's features; attention in PyTorch's implementation that holds no matrix,
    mutual-aware attention in the reference. Saved bytes grow linearly, so counts with one and two expressions
    determine both parts.
    """
    rows = []
    for heads in (8, 2):
        settings = ModelSettings(heads=heads, attention_impl="sdpa", mutual_attention_impl="reference")
        model = Maris(settings, VISUAL_CHANNELS, TEXT_CHANNELS)
        one, two = (_saved(model, expressions) for expressions in (1, 2))
        parameters = sum(parameter.numel() for parameter in model.parameters())
        rows.append(
            {
                "heads": heads,
                "grid": GRID,
                "words": WORDS,
                "parameters": parameters,
                "state_bytes": ADAMW_BYTES * parameters,
                "image_bytes": 2 * one - two,
                "expression_bytes": two - one,
            }
        )
    return rows


def _saved(model: Maris, expressions: int) -> int:
    """Saved bytes of one image with ``expressions`` expressions, beyond parameters and features."""
    features = [torch.randn(1, *GRID, VISUAL_CHANNELS, dtype=torch.bfloat16) for _ in range(3)]
    words = torch.randn(expressions, WORDS, TEXT_CHANNELS, dtype=torch.bfloat16)
    word_mask = torch.ones(expressions, WORDS, dtype=torch.bool)
    offsets = torch.tensor([0, expressions], dtype=torch.int32)

    def forward() -> torch.Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(features, words, word_mask, offsets).logits
        targets = torch.zeros_like(logits, dtype=torch.bool)
        return expression_losses(logits, targets, LossSettings()).total.sum()

    beyond, _ = saved_bytes(forward, [*model.parameters(), *features, words])
    return beyond
