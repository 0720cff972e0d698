"""A of the mutual-aware attention blocks, as a model's own forward pass computes it."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from maris_fast.errors import ConfigError
from maris_fast.geometry import ImageGeometry, to_size
from maris_fast.model import Maris
from maris_fast.model.mutual_aware_attention import MutualAwareAttention


@dataclass(frozen=True)
class Attention:
    """A of eq. 3 for one expression, in all MA blocks.

    A row is vision-guided attention, a token's weights over the words; a column is language-guided, a word's
    weights over the tokens of the image.
    """

    text: str
    tokens: tuple[str, ...]
    """What CLIP reads: L_t byte-pair tokens, mostly whole words, and the end token."""
    blocks: NDArray[np.float32]
    """[blocks, h, w, L_t]"""
    geometry: ImageGeometry

    def words_at(self, x: int, y: int) -> NDArray[np.float32]:
        """[blocks, L_t]: weights of the words for the token under a pixel of the original image.

        The weights of a block sum to 1, or are 0 if eq. 4's gate keeps no word.

        Raises:
            InputError: the pixel is outside the image.
        """
        row, column = self.geometry.token_of(x, y)
        return self.blocks[:, row, column]

    def region_of(self, word: int, block: int, size: tuple[int, int] | None = None) -> NDArray[np.float32]:
        """[height, width]: a word's column of A over the image; both counted from 0.

        Args:
            size: height and width; None: the original image's.
        """
        column = torch.from_numpy(self.blocks[block, :, :, word])[None, None]
        # Resized as mask logits are, so that a region is where a mask would be.
        fine = F.interpolate(column, self.geometry.mask_size, mode="bilinear", align_corners=False)[:, 0]
        size = size or (self.geometry.height, self.geometry.width)
        region: NDArray[np.float32] = to_size(fine, self.geometry, size)[0].numpy()
        return region


@contextmanager
def watched(model: nn.Module) -> Iterator[list[Tensor]]:
    """Record A of each MA block, [E, L_v, L_t], in the list when the model runs inside this context.

    Passes that other threads run at the same time are not recorded.

    Raises:
        ConfigError: the model has no MA blocks.
    """
    blocks = [module for module in model.modules() if isinstance(module, MutualAwareAttention)]
    if not blocks:
        raise ConfigError(
            f"this model has no mutual-aware attention to show ({_why_not(model)}); expected weights of a "
            "model with MA blocks: model.ma_blocks of 1 or more, model.fusion = mutual"
        )
    kept: list[Tensor] = []
    thread = threading.get_ident()

    def keep(block: MutualAwareAttention, inputs: tuple[Any, ...], named: dict[str, Any], _: object) -> None:
        if threading.get_ident() != thread:
            return
        if block is blocks[0]:
            kept.clear()  # of the previous pass
        kept.append(block.weights(*inputs, **named))

    handles = [block.register_forward_hook(keep, with_kwargs=True) for block in blocks]
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def of_expression(
    watched_blocks: Sequence[Tensor],
    expression: int,
    text: str,
    tokens: Sequence[str],
    geometry: ImageGeometry,
) -> Attention:
    """One expression's part of what ``watched`` recorded, without the padding.

    Args:
        watched_blocks: [E, L_v, L_t] of each block.
        expression: its index in E.
        text: of the expression.
        tokens: of the expression, as many as it has real words.
        geometry: of its image, whose grid is L_v.
    """
    blocks = torch.stack([A[expression, :, : len(tokens)] for A in watched_blocks]).float()
    return Attention(text, tuple(tokens), blocks.unflatten(1, geometry.grid).detach().cpu().numpy(), geometry)


def pixel_of(mask: NDArray[np.bool_]) -> tuple[int, int]:
    """(x, y) of a pixel well inside the mask's largest part; for an empty mask, the middle of the image.

    It is the mask pixel around which a window of half the mask's size contains the most mask pixels; among
    several, the one nearest to their centre.
    """
    height, width = mask.shape
    if not mask.any():
        return width // 2, height // 2
    reach = max(1, round(np.sqrt(np.count_nonzero(mask)) / 4))
    sums = np.pad(mask.astype(np.int64), reach + 1).cumsum(0).cumsum(1)
    size = 2 * reach + 1
    held = sums[size:, size:] - sums[:-size, size:] - sums[size:, :-size] + sums[:-size, :-size]
    held = np.where(mask, held[:height, :width], 0)
    ys, xs = np.nonzero(held == held.max())
    nearest = int(np.argmin((ys - ys.mean()) ** 2 + (xs - xs.mean()) ** 2))
    return int(xs[nearest]), int(ys[nearest])


def _why_not(model: nn.Module) -> str:
    if not isinstance(model, Maris):
        return type(model).__name__
    chosen = model.settings.model_dump(include={"ma_blocks", "fusion"})
    return ", ".join(f"model.{name} = {value}" for name, value in chosen.items())
