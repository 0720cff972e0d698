"""Expressions with logits and ground truth drawn by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from pycocotools import mask as coco_mask
from torch import Tensor

from maris_fast import scoring
from maris_fast.geometry import ImageGeometry
from maris_fast.rle import Rle
from maris_fast.sample import Sample
from maris_fast.scoring import PROTOCOLS, Pixels, Protocol, Rows
from maris_fast.scoring.protocols import Count, count

SURE = 20.0
"""A logit so large that interpolating to its negative comes close to a threshold only in the middle."""


def box(height: int, width: int, top: int, left: int, bottom: int, right: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=bool)
    mask[top:bottom, left:right] = True
    return mask


def coded(mask: np.ndarray) -> dict[str, Any]:
    """Run lengths as pycocotools writes them: size and compressed counts."""
    encoded: dict[str, Any] = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    return encoded


def band(height: int, width: int, top: int, bottom: int) -> np.ndarray:
    """A box over the whole width."""
    return box(height, width, top, 0, bottom, width)


def logits_of(mask: np.ndarray, geometry: ImageGeometry) -> Tensor:
    """Logits [1, 4h, 4w] that give ``mask`` at the original size, for bands of whole 4 x 4 blocks.

    Resizing rounds off the corners of other boxes: three of the four logits around a corner are negative.
    """
    small = mask[::4, ::4]
    h, w = geometry.mask_size
    small = np.pad(small, ((0, h - small.shape[0]), (0, w - small.shape[1])), mode="edge")
    return torch.from_numpy(np.where(small, SURE, -SURE))[None].float()


def sample_of(truth: np.ndarray, twice: np.ndarray | None = None, **known: Any) -> Sample:
    """A sample of an image that the encoder takes without resizing."""
    ids = {"image_id": 1, "ref_id": 1, "sent_id": 1, "text": "it"}
    geometry = ImageGeometry.unresized(*truth.shape)
    overlap = None if twice is None else Rle.encode(twice)
    return Sample(**{**ids, **known}, target=Rle.encode(truth), geometry=geometry, overlap=overlap)


def all_rows() -> Rows:
    return Rows(tuple(PROTOCOLS.values()))


def add(
    rows: Rows,
    prediction: np.ndarray,
    truth: np.ndarray,
    *,
    twice: np.ndarray | None = None,
    no_target: bool | None = None,
    **expression: Any,
) -> None:
    """Add an expression about an image that the encoder takes without resizing."""
    sample = sample_of(truth, twice, **expression)
    add_logits(rows, logits_of(prediction, sample.geometry), sample, no_target)


def add_logits(rows: Rows, logits: Tensor, sample: Sample, no_target: bool | None = None) -> None:
    (numbers,) = rows.comparer.of_logits(logits, [sample]).tolist()
    rows.add([Pixels(*one) for one in numbers], sample, no_target)


def count_of(
    protocol: Protocol, prediction: np.ndarray, truth: np.ndarray, no_target: bool | None = None
) -> Count:
    """The count for masks that are on the protocol's canvas."""
    pixels = Pixels(int((prediction & truth).sum()), int(prediction.sum()), int(truth.sum()))
    return count(protocol, pixels, no_target, targetless=not truth.any())


def under_all(rows: Rows) -> dict[str, dict[str, Any]]:
    """Each protocol's scores."""
    protocols: dict[str, dict[str, Any]] = scoring.whole(rows.table(), bootstrap=0)["protocols"]
    return protocols


def score_of(rows: Rows, name: str) -> dict[str, float]:
    """One score, by protocol."""
    return {protocol: scores[name] for protocol, scores in under_all(rows).items()}
