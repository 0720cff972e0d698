"""Scores of a model on a split, at each image's original size, over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from maris_fast import scoring
from maris_fast.data_shards.stream import Batch
from maris_fast.model.segmentation import Segmentation
from maris_fast.sample import Sample
from maris_fast.scoring import MARIS, Rows
from maris_fast.scoring.rows import ScoreTable
from maris_fast.train.ranks import Ranks


def score_split(
    model: nn.Module,
    batches: Iterable[Batch],
    ranks: Ranks,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    see: Callable[[Sample, NDArray[np.bool_]], None] | None = None,
) -> dict[str, Any]:
    """``scoring.headline`` of the whole split, the same on all ranks; see ``score_expressions``."""
    table = score_expressions(model, batches, ranks, precision=precision, see=see)
    return scoring.headline(table)


@torch.inference_mode()
def score_expressions(
    model: nn.Module,
    batches: Iterable[Batch],
    ranks: Ranks,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    see: Callable[[Sample, NDArray[np.bool_]], None] | None = None,
    protocols: Sequence[scoring.Protocol] = (MARIS,),
) -> ScoreTable:
    """The whole split's expressions, scored under every protocol; the same on all ranks.

    Args:
        model: a plain module in evaluation mode on ``ranks.device``, not one that DeepSpeed scattered:
            nothing in here waits for another rank until the rows are put together.
        batches: this rank's, on ``ranks.device``; each expression once over all ranks, padding has weight 0.
        see: is called with each of this rank's expressions and its predicted mask, bool [height, width].
        protocols: ways of scoring besides MARIS' own.
    """
    rows = Rows(protocols)
    for batch in batches:
        if not batch.weights.any():
            continue
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=precision == "bf16"):
            said = model(batch.features, batch.words, batch.word_mask, batch.expr_offsets)
        said.require_finite()
        logits, nothing = said.logits.float().split(1), _says_nothing(said)
        for sample, one, none in zip(batch.samples, logits, nothing, strict=True):
            mask = rows.add(one, sample, none)
            if see is not None:
                see(sample, mask)
    whole = Rows(protocols)
    for state in ranks.gather(rows.state()):
        whole.merge(state)
    return whole.table()


def _says_nothing(said: Segmentation) -> Sequence[bool | None]:
    """Of each expression, whether the model says that it means nothing; None where it has no such output."""
    if said.no_target is None:
        return [None] * len(said.logits)
    return (said.no_target > 0).tolist()
