"""The model's output for each expression."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from maris_fast.errors import CheckpointError

NOTHING = -1e4
"""The logit of a pixel where there is nothing to segment: below any threshold, and finite when resized."""


class Segmentation(NamedTuple):
    """``logits`` [E, 4h, 4w]: a pixel belongs to the mask where > 0.

    ``no_target`` [E]: an expression refers to nothing where > 0; None for a model without this output.
    """

    logits: Tensor
    no_target: Tensor | None

    def finite(self) -> Tensor:
        """Bool []: no logit is NaN or infinite."""
        given = [one for one in (self.logits, self.no_target) if one is not None]
        # Minimum and maximum propagate NaN, and take a fraction of the time of checking every number.
        return torch.stack([end.isfinite() for one in given for end in one.aminmax()]).all()

    def require_finite(self) -> None:
        """
        Raises:
            CheckpointError: see the function of this name.
        """
        require_finite(bool(self.finite()))

    def answer(self) -> Tensor:
        """The logits [E, 4h, 4w] to take masks from, emptied for an expression that refers to nothing."""
        if self.no_target is None:
            return self.logits
        return self.logits.masked_fill((self.no_target > 0)[:, None, None], NOTHING)


def require_finite(finite: bool) -> None:
    """
    Raises:
        CheckpointError: a logit is NaN or infinite; its mask would silently be empty or full.
    """
    if not finite:
        raise CheckpointError(
            "the model's output is not finite: its weights overflow, or its input features are damaged; use "
            "other weights, fp32, or check the cache with `maris-fast verify`"
        )
