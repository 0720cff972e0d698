"""Successes and failures of one or several models, side by side: chosen by rule, not by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import nn

from maris_fast.data_shards.stream import Batch, CacheReader
from maris_fast.pictures.overlays import TRUTH, Panel, sheet
from maris_fast.reports.data_uris import small_png_uri
from maris_fast.rle import Rle, iou
from maris_fast.sample import Predicted, Sample
from maris_fast.train.ranks import Ranks
from maris_fast.train.split_scores import score_split
from maris_fast.train.validation_pictures import SampleMasks, SampleSheet, order_of

RULE = (
    "One expression an image, chosen by a hash of its ids; of those, the ones where the first model's IoU is "
    "highest, the ones where it is lowest, and some at even steps from the worst to the best."
)
WIDTH = 200
"""Width of one mask in a sheet, in pixels."""


@dataclass(frozen=True)
class Example:
    """One expression with each model's mask."""

    sample: Sample
    predictions: tuple[Rle, ...]
    ious: tuple[float, ...]
    """I / U at the image's own size, one per model; 1 for two empty masks."""

    @property
    def order(self) -> bytes:
        return order_of(self.sample)


@dataclass(frozen=True)
class Chosen:
    """``successes`` from the best on, ``failures`` from the worst on, ``steps`` from worst to best."""

    successes: list[Example]
    failures: list[Example]
    steps: list[Example]


@dataclass(frozen=True)
class Sheet:
    title: str
    alt: str
    uri: str


@dataclass(frozen=True)
class ExamplesOfRuns:
    """``images``: how many were examined; ``notes``: what was missing."""

    names: list[str]
    split: str
    images: int
    sheets: list[Sheet]
    notes: list[str]


def first_images(batches: Iterable[Batch], most: int) -> Iterator[Batch]:
    """The batches of the first ``most`` images, or a few more that are in the last batch."""
    seen = 0
    for batch in batches:
        yield batch
        seen += batch.images
        if seen >= most:
            return


def examples_of(
    models: Sequence[nn.Module], reader: CacheReader, ranks: Ranks, *, images: int | None = None
) -> list[Example]:
    """One expression of each image with the masks of all models, in the order of their hashes.

    Args:
        models: in evaluation mode on ``ranks.device``; at least one.
        reader: of the split, on the same device.
        ranks: of a single process.
        images: how many to examine, from the start of the split; None: all.
    """

    def batches() -> Iterator[Batch]:
        every = reader.evaluation_batches()
        return every if images is None else first_images(every, images)

    return _joined([_masks(model, batches(), ranks) for model in models])


def choose(examples: Sequence[Example], number: int) -> Chosen:
    """``number`` of each kind, or fewer if there are not enough; equal IoUs are in the order of hashes."""
    ranked = sorted(examples, key=lambda one: (one.ious[0], one.order))
    failures = ranked[: min(number, len(ranked) // 2)]
    successes = ranked[::-1][: min(number, len(ranked) - len(failures))]
    places = np.linspace(0, len(ranked) - 1, min(number, len(ranked))).round().astype(int)
    return Chosen(successes, failures, [ranked[place] for place in places])


def examples_sheet(
    examples: Sequence[Example], names: Sequence[str], image_root: Path, say: Callable[[str], None]
) -> Image.Image:
    """One row per expression: the image, the truth in green, each model's mask in pink with its IoU.

    Args:
        examples: at least one.
        names: of the models.
        image_root: of the data set; missing images are drawn grey and reported once through ``say``.
    """
    backgrounds = SampleSheet(image_root)
    panels: list[Panel] = []
    for one in examples:
        image = backgrounds.background(one.sample, say)
        truth = one.sample.target.decode()
        nothing = np.zeros_like(truth)
        panels.append(Panel(image, nothing, one.sample.text))
        panels.append(Panel(image, truth, "truth" if truth.any() else "truth: no target", colour=TRUTH))
        for name, prediction, one_iou in zip(names, one.predictions, one.ious, strict=True):
            panels.append(Panel(image, prediction.decode(), f"{name}: IoU {one_iou:.2f}"))
    return sheet(panels, columns=2 + len(names), width=WIDTH)


def examples_of_runs(
    names: Sequence[str], split: str, images: int, chosen: Chosen, image_root: Path
) -> ExamplesOfRuns:
    """Sheets of the chosen examples; empty ones are omitted."""
    notes: list[str] = []
    parts: dict[str, list[Example]] = {
        "Successes": chosen.successes,
        "Failures": chosen.failures,
        "From the worst to the best, at even steps": chosen.steps,
    }
    sheets = []
    for title, some in parts.items():
        if some:
            picture = examples_sheet(some, names, image_root, notes.append)
            sheets.append(Sheet(title, _alt(title, some, names), small_png_uri(picture)))
    return ExamplesOfRuns(list(names), split, images, sheets, notes[:1])


def _alt(title: str, some: Sequence[Example], names: Sequence[str]) -> str:
    rows = (
        f"{one.sample.text}: "
        + ", ".join(f"{name} {iou:.2f}" for name, iou in zip(names, one.ious, strict=True))
        for one in some
    )
    return f"{title}, IoU by model. {'; '.join(rows)}"


def _masks(model: nn.Module, batches: Iterable[Batch], ranks: Ranks) -> dict[bytes, Predicted]:
    masks = SampleMasks(None)
    score_split(model, batches, ranks, see=masks.see)
    return {order_of(one.sample): one for one in masks.kept()}


def _joined(masks: Sequence[dict[bytes, Predicted]]) -> list[Example]:
    first = masks[0]
    return [
        Example(
            sample=one.sample,
            predictions=tuple(each[order].mask for each in masks),
            ious=tuple(iou(each[order].mask, one.sample.target) for each in masks),
        )
        for order, one in first.items()
    ]
