"""A batch of image groups, as the model takes it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from maris_fast.data_shards.records import Rle
from maris_fast.geometry import ImageGeometry


@dataclass(frozen=True)
class Sample:
    """What is known of one expression of a batch, for scoring and pictures."""

    image_id: int
    image: str
    """Path below the data set's image root."""
    ref_id: int
    ann_id: int
    sent_id: int
    text: str
    """The sentence whose words the model reads; with words exchanged, that of the other object."""
    tokens: tuple[str, ...]
    """Readable form of the words, L_t of them."""
    kind: str | None
    """Kind of the expression, where the data set names one."""
    target: Rle
    """The mask at the image's own size."""
    geometry: ImageGeometry


@dataclass(frozen=True)
class Batch:
    """I images of one grid and their E expressions, in the order of the images."""

    features: tuple[Tensor, Tensor, Tensor]
    """Float32 [I, h, w, C_v] each, levels 1 to 3."""
    words: Tensor
    """Float32 [E, L_t, C'], zero beyond an expression's length; L_t is the longest of the batch."""
    word_mask: Tensor
    """Bool [E, L_t], True for a real word."""
    expr_offsets: Tensor
    """Int32 [I + 1]: image i has the expressions from expr_offsets[i] to expr_offsets[i + 1]."""
    targets: Tensor
    """Bool [E, 4h, 4w]."""
    weights: Tensor
    """Float32 [E]: 1, or 0 for padding that a rank without work computes along with the others."""
    step_expressions: int
    """Real expressions of the whole step over all ranks: the denominator of the mean loss."""
    samples: tuple[Sample, ...]
    """One an expression."""

    @property
    def images(self) -> int:
        return self.features[0].shape[0]

    @property
    def expressions(self) -> int:
        """E, padding included."""
        return len(self.samples)

    @property
    def grid(self) -> tuple[int, int]:
        """Tokens, (h, w)."""
        return self.features[0].shape[1], self.features[0].shape[2]

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on ``device``."""
        first, second, third = (level.to(device, non_blocking=non_blocking) for level in self.features)
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking)
            for name in ("words", "word_mask", "expr_offsets", "targets", "weights")
        }
        return replace(self, features=(first, second, third), **moved)
