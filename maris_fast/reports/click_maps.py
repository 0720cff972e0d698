"""Attention of a run's model on a page: a picture that responds to the pointer, and regions of words."""

from __future__ import annotations

import base64
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from maris_fast.data_shards.stream import Batch, CacheReader
from maris_fast.geometry import PATCH
from maris_fast.pictures.attention_maps import regions_picture
from maris_fast.pictures.attention_weights import Attention, of_expression, pixel_of, watched
from maris_fast.pictures.overlays import Panel, masked
from maris_fast.reports.chosen_examples import Example
from maris_fast.reports.data_uris import small_png_uri
from maris_fast.train.validation_pictures import SampleSheet, order_of

WIDTH = 480
"""Width of the picture that responds to the pointer, in pixels."""


@dataclass(frozen=True)
class Word:
    token: str
    percent: tuple[float, ...]
    """Weight for the marked token, one per block."""


@dataclass(frozen=True)
class ClickMap:
    """The image as tokens, and A for each of them.

    Attributes:
        row, column: of the token that is marked initially.
        span: rows and columns that the image covers, in tokens; the last may be covered in part.
        grid: size in tokens, (h, w).
        blocks: A of each MA block, as base64 of bytes [h, w, L_t], 255 for a weight of 1.
    """

    picture: str
    row: int
    column: int
    span: tuple[float, float]
    grid: tuple[int, int]
    words: tuple[Word, ...]
    blocks: tuple[str, ...]

    @property
    def data(self) -> dict[str, object]:
        """The data that the page's script reads."""
        return {
            "row": self.row,
            "column": self.column,
            "span": self.span,
            "grid": self.grid,
            "words": len(self.words),
            "blocks": self.blocks,
        }


@dataclass(frozen=True)
class AttentionOfExpression:
    text: str
    iou: float
    map: ClickMap
    regions: str


@dataclass(frozen=True)
class AttentionOfRun:
    """``notes``: what was missing."""

    name: str
    blocks: int
    expressions: list[AttentionOfExpression]
    notes: list[str]


def attention_of_run(
    name: str,
    model: nn.Module,
    reader: CacheReader,
    examples: Sequence[Example],
    place: int,
    image_root: Path,
) -> AttentionOfRun:
    """Attention for some examples, in their order.

    Args:
        name: of the run.
        model: in evaluation mode on the reader's device.
        reader: of the split that the examples are from.
        examples: with the model's masks.
        place: index of the model among those of an example.
        image_root: of the data set.

    Raises:
        ConfigError: the model has no mutual-aware attention.
    """
    found = attention_of(model, reader.evaluation_batches(), {one.order for one in examples})
    backgrounds = SampleSheet(image_root)
    notes: list[str] = []
    shown = []
    for one in examples:
        attention, mask = found[one.order], one.predictions[place].decode()
        image = backgrounds.background(one.sample, notes.append)
        last = len(attention.blocks) - 1
        picture = small_png_uri(masked(Panel(image, mask, ""), width=WIDTH))
        regions = small_png_uri(regions_picture(image, mask, attention, last))
        click_map = _click_map(picture, attention, pixel_of(mask))
        shown.append(AttentionOfExpression(one.sample.text, one.ious[place], click_map, regions))
    return AttentionOfRun(name, max((len(one.map.blocks) for one in shown), default=0), shown, notes)


@torch.inference_mode()
def attention_of(
    model: nn.Module, batches: Iterable[Batch], wanted: Collection[bytes]
) -> dict[bytes, Attention]:
    """A of each wanted expression that is in the split, by its hash from ``order_of``.

    Reads until all are found; the model runs only on batches that contain one.

    Args:
        model: in evaluation mode on the batches' device.
        batches: of the split, each expression once.
        wanted: hashes of expressions.

    Raises:
        ConfigError: the model has no mutual-aware attention.
    """
    found: dict[bytes, Attention] = {}
    with watched(model) as blocks:
        for batch in batches:
            orders = [order_of(sample) for sample in batch.samples]
            here = [place for place, order in enumerate(orders) if order in wanted]
            if here:
                model(batch.features, batch.words, batch.word_mask, batch.expr_offsets)
            for place in here:
                one = batch.samples[place]
                found[orders[place]] = of_expression(blocks, place, one.text, one.tokens, one.geometry)
            if len(found) == len(wanted):
                break
    return found


def _click_map(picture: str, attention: Attention, pixel: tuple[int, int]) -> ClickMap:
    row, column = attention.geometry.token_of(*pixel)
    percents = 100 * attention.words_at(*pixel)
    return ClickMap(
        picture=picture,
        row=row,
        column=column,
        span=(attention.geometry.h_px / PATCH, attention.geometry.w_px / PATCH),
        grid=attention.geometry.grid,
        words=tuple(
            Word(token, tuple(percents[:, word].tolist())) for word, token in enumerate(attention.tokens)
        ),
        blocks=tuple(
            base64.b64encode((255 * block).round().astype(np.uint8).tobytes()).decode()
            for block in attention.blocks
        ),
    )
