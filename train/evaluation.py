"""Scores of a model on a split, at each image's original size, over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from torch import nn

from maris_fast.data_shards.records import Rle
from maris_fast.data_shards.stream import Batch, Sample
from maris_fast.geometry import to_original_size
from maris_fast.metrics import SegmentationScores
from maris_fast.train.ranks import Ranks


class EvaluationReader(Protocol):
    """A split's expressions, each exactly once over all ranks; padding has weight 0."""

    def evaluation_batches(
        self, *, rank: int, world: int, max_expressions: int, swapped: bool
    ) -> Iterator[Batch]: ...


@torch.inference_mode()
def evaluate(
    model: nn.Module,
    reader: EvaluationReader,
    ranks: Ranks,
    *,
    max_expressions: int = 64,
    precision: Literal["fp32", "bf16"] = "fp32",
    swapped: bool = False,
    see: Callable[[Sample, NDArray[np.bool_]], None] | None = None,
) -> dict[str, Any]:
    """``SegmentationScores.summary()`` of the whole split, the same on all ranks.

    Args:
        model: a plain module in evaluation mode on ``ranks.device``, not one that DeepSpeed scattered:
            nothing in here waits for another rank until the scores are added up.
        reader: gives batches on ``ranks.device``.
        max_expressions: in one batch; of memory only.
        swapped: each expression is exchanged for one about another object of its image; a model that reads
            falls to a low score.
        see: is called with each of this rank's expressions and its predicted mask, bool [height, width].
    """
    scores = SegmentationScores()
    for batch in reader.evaluation_batches(
        rank=ranks.rank, world=ranks.world, max_expressions=max_expressions, swapped=swapped
    ):
        if not batch.weights.any():
            continue
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=precision == "bf16"):
            logits = model(batch.features, batch.words, batch.word_mask, batch.expr_offsets).answer()
        for sample, one in zip(batch.samples, logits.float().split(1), strict=True):
            mask = (to_original_size(one, sample.geometry)[0] > 0).cpu().numpy()
            scores.update(mask, _truth(sample.target), sample.kind)
            if see is not None:
                see(sample, mask)
    whole = SegmentationScores()
    for state in ranks.gather(scores.state()):
        whole.merge(state)
    return whole.summary()


def _truth(rle: Rle) -> NDArray[np.bool_]:
    decoded: NDArray[np.bool_] = coco_mask.decode({"size": list(rle.size), "counts": rle.counts}) > 0
    return decoded
