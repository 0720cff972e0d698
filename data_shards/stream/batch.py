"""A batch of image groups, as the model takes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from torch import Tensor

from maris_fast.sample import Sample


@dataclass(frozen=True)
class Batch:
    """I images of one grid and their E expressions, in the order of the images, on the reader's device."""

    features: tuple[Tensor, Tensor, Tensor]
    """Levels 1 to 3, [I, h, w, C_v] each, in the reader's dtype."""
    words: Tensor
    """[E, L_t, C'], in the reader's dtype, zero beyond an expression's length; L_t is the batch's longest."""
    word_mask: Tensor
    """Bool [E, L_t], True for a real word."""
    expr_offsets: Tensor
    """Int32 [I + 1]: image i has the expressions from expr_offsets[i] to expr_offsets[i + 1]."""
    targets: Tensor
    """Bool [E, 4h, 4w]."""
    weights: Tensor
    """Float32 [E]: 1, or 0 for padding that a rank without work computes along with the others."""
    step_expressions: int
    """Expressions of the whole step over all ranks, as planned: the denominator of the mean loss."""
    describe: Callable[[], tuple[Sample, ...]] = field(repr=False, compare=False)
    """Creates ``samples``."""
    padding: bool = False
    """Whether all weights are 0; reading the weights themselves would wait for the GPU."""

    @cached_property
    def samples(self) -> tuple[Sample, ...]:
        """One per expression; created on first access, which training never needs.

        Raises:
            InputError: an image's JSON is damaged (with checksums compared, reading has raised before).
        """
        return self.describe()

    @property
    def images(self) -> int:
        return self.features[0].shape[0]

    @property
    def expressions(self) -> int:
        """E, padding included."""
        return self.words.shape[0]

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens, (h, w)."""
        return self.features[0].shape[1], self.features[0].shape[2]
