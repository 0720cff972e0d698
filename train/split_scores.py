"""Scores of a model on a split, at each image's original size, over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from maris_fast import scoring
from maris_fast.data_shards.stream import Batch, Sample
from maris_fast.model.segmentation import Segmentation
from maris_fast.scoring import MARIS, Expression, Rows, Truth
from maris_fast.scoring.rows import Table
from maris_fast.train.ranks import Ranks


class EvaluationReader(Protocol):
    """A split's expressions, each exactly once over all ranks; padding has weight 0."""

    def evaluation_batches(
        self, *, rank: int, world: int, max_expressions: int, swapped: bool
    ) -> Iterator[Batch]: ...


def score_split(
    model: nn.Module,
    reader: EvaluationReader,
    ranks: Ranks,
    *,
    max_expressions: int = 64,
    precision: Literal["fp32", "bf16"] = "fp32",
    see: Callable[[Sample, NDArray[np.bool_]], None] | None = None,
) -> dict[str, Any]:
    """``scoring.headline`` of the whole split, the same on all ranks; see ``score_expressions``."""
    table = score_expressions(
        model, reader, ranks, max_expressions=max_expressions, precision=precision, see=see
    )
    return scoring.headline(table)


@torch.inference_mode()
def score_expressions(
    model: nn.Module,
    reader: EvaluationReader,
    ranks: Ranks,
    *,
    max_expressions: int = 64,
    precision: Literal["fp32", "bf16"] = "fp32",
    swapped: bool = False,
    see: Callable[[Sample, NDArray[np.bool_]], None] | None = None,
    protocols: Sequence[scoring.Protocol] = (MARIS,),
) -> Table:
    """The whole split's expressions, scored under every protocol; the same on all ranks.

    Args:
        model: a plain module in evaluation mode on ``ranks.device``, not one that DeepSpeed scattered:
            nothing in here waits for another rank until the rows are put together.
        reader: gives batches on ``ranks.device``.
        max_expressions: in one batch; of memory only.
        swapped: each expression is exchanged for one about another object of its image; a model that reads
            falls to a low score.
        see: is called with each of this rank's expressions and its predicted mask, bool [height, width].
        protocols: ways of scoring besides MARIS' own.
    """
    rows = Rows(protocols)
    for batch in reader.evaluation_batches(
        rank=ranks.rank, world=ranks.world, max_expressions=max_expressions, swapped=swapped
    ):
        if not batch.weights.any():
            continue
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=precision == "bf16"):
            said = model(batch.features, batch.words, batch.word_mask, batch.expr_offsets)
        said.require_finite()
        logits, nothing = said.logits.float().split(1), _says_nothing(said)
        for sample, one, none in zip(batch.samples, logits, nothing, strict=True):
            mask = rows.add(one, sample.geometry, _truth(sample), _expression(sample), none)
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


def _truth(sample: Sample) -> Truth:
    twice = None if sample.overlap is None else sample.overlap.decode()
    return Truth(sample.target.decode(), twice)


def _expression(sample: Sample) -> Expression:
    return Expression(
        image_id=sample.image_id,
        ref_id=sample.ref_id,
        sent_id=sample.sent_id,
        text=sample.text,
        category=sample.category,
        kind=sample.kind,
        first=sample.first,
    )
