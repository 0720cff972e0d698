"""What both trainings share: streams of scenes, the optimiser and its learning rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import nn

Progress = Callable[[int, int], None]
"""Called after each step with the number of steps done and the total."""

PICTURES, PAIRS, HELD_OUT = 2, 3, 4
"""Random streams other than those of the scenes' splits, 0 and 1: no picture here is in a split."""

WARMUP_STEPS = 100
LEARNING_RATE, WEIGHT_DECAY = 1e-3, 0.05


def stream(seed: int, which: int, index: int) -> np.random.Generator:
    """Random number generator of one picture."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(which, index)))


class Optimiser:
    """AdamW with linear warm-up, cosine decay to 2% of ``LEARNING_RATE``, and gradients clipped to norm 1."""

    def __init__(self, modules: Iterable[nn.Module], steps: int) -> None:
        self._parameters = [p for module in modules for p in module.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in self._parameters if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
            {"params": [p for p in self._parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        self._adam = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))
        self._rate = torch.optim.lr_scheduler.LambdaLR(
            self._adam,
            lambda step: (
                min(1, (step + 1) / WARMUP_STEPS) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))
            ),
        )

    def step(self, loss: torch.Tensor) -> None:
        self._adam.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self._parameters, 1.0)
        self._adam.step()
        self._rate.step()
