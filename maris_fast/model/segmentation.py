"""What the model says of each expression."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

NOTHING = -1e4
"""The logit of a pixel where there is nothing to segment: below any threshold, and finite when resized."""


class Segmentation(NamedTuple):
    """``logits`` [E, 4h, 4w]: a pixel belongs to the mask where > 0.

    ``no_target`` [E]: an expression refers to nothing where > 0; None for a model without this output.
    """

    logits: Tensor
    no_target: Tensor | None

    def answer(self) -> Tensor:
        """The logits [E, 4h, 4w] to take masks from, emptied for an expression that refers to nothing."""
        if self.no_target is None:
            return self.logits
        return self.logits.masked_fill((self.no_target > 0)[:, None, None], NOTHING)
