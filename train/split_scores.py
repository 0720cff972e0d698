"""Scores of a model on a split, at each image's original size, over all ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from maris_fast import scoring
from maris_fast.data_shards.stream import Batch
from maris_fast.model.segmentation import Segmentation, require_finite
from maris_fast.sample import Sample
from maris_fast.scoring import MARIS, Pixels, Rows
from maris_fast.scoring.rows import ScoreTable
from maris_fast.system.devices import fitting
from maris_fast.train.ranks import Ranks

See = Callable[[Sample, Tensor], None]
_UNKNOWN = -1


def score_split(
    model: nn.Module,
    batches: Iterable[Batch],
    ranks: Ranks,
    *,
    precision: Literal["fp32", "bf16"] = "fp32",
    see: See | None = None,
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
    see: See | None = None,
    protocols: Sequence[scoring.Protocol] = (MARIS,),
) -> ScoreTable:
    """The whole split's expressions, scored under every protocol; the same on all ranks.

    Args:
        model: a plain module in evaluation mode on ``ranks.device``, not one that DeepSpeed partitioned:
            no rank waits for another until the rows are gathered.
        batches: this rank's, on ``ranks.device``; each expression once over all ranks, except for padding.
        see: is called with each of this rank's expressions and its predicted mask, bool [height, width] on
            ``ranks.device``: fetching it to the host costs one transfer per expression.
        protocols: ways of scoring besides MARIS' own.

    Raises:
        CheckpointError: the model's output is not finite.
        MemoryShortageError: a batch does not fit in the GPU's memory.
    """
    rows = Rows(protocols)
    with fitting("end what else uses the GPU (nvidia-smi), or evaluate on a CPU"):
        _score_own(rows, model, batches, ranks, precision, see)
    whole = Rows(protocols)
    for state in ranks.gather(rows.state()):
        whole.merge(state)
    return whole.table()


def _score_own(
    rows: Rows,
    model: nn.Module,
    batches: Iterable[Batch],
    ranks: Ranks,
    precision: Literal["fp32", "bf16"],
    see: See | None,
) -> None:
    """Add the scores of this rank's expressions to ``rows``."""
    coming: _Answer | None = None
    for batch in batches:
        if batch.padding:
            continue
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=precision == "bf16"):
            said = model(batch.features, batch.words, batch.word_mask, batch.expr_offsets)
        answer = _Answer(rows, said, batch.samples, see)
        if coming is not None:
            coming.add_to(rows)
        coming = answer
    if coming is not None:
        coming.add_to(rows)


class _Answer:
    """The results of a batch, on their way to the host while the GPU computes the next batch."""

    def __init__(self, rows: Rows, said: Segmentation, samples: Sequence[Sample], see: See | None) -> None:
        device = said.logits.device
        nothing = None if said.no_target is None else said.no_target > 0

        def seen(place: int, mask: Tensor) -> None:
            if see is not None:
                see(samples[place], mask if nothing is None else mask & ~nothing[place])

        pixels = rows.comparer.of_logits(said.logits.float(), samples, None if see is None else seen)
        says_none = pixels.new_full((len(samples),), _UNKNOWN) if nothing is None else nothing.long()
        finite = said.finite().long().expand(len(samples))
        numbers = torch.cat([torch.stack([finite, says_none], dim=1), pixels.flatten(1)], dim=1)
        self._samples = samples
        self._numbers = numbers.to("cpu", non_blocking=True)
        self._here = torch.cuda.Event() if device.type == "cuda" else None
        if self._here is not None:
            self._here.record(torch.cuda.current_stream(device))

    def add_to(self, rows: Rows) -> None:
        """
        Raises:
            CheckpointError: the output is not finite.
        """
        if self._here is not None:
            self._here.synchronize()
        for sample, (finite, says_none, *pixels) in zip(self._samples, self._numbers.tolist(), strict=True):
            require_finite(bool(finite))
            of_each = [Pixels(*pixels[i : i + 3]) for i in range(0, len(pixels), 3)]
            rows.add(of_each, sample, None if says_none == _UNKNOWN else bool(says_none))
