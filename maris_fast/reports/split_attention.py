"""Attention of a trained model for expressions of a cache, from the features that stand there."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import torch
from torch import nn

from maris_fast.data_shards.stream import Batch
from maris_fast.pictures.attention_weights import Attention, of_expression, watched
from maris_fast.train.validation_pictures import order_of


@torch.inference_mode()
def attention_of(
    model: nn.Module, batches: Iterable[Batch], wanted: Collection[bytes]
) -> dict[bytes, Attention]:
    """A of each wanted expression that the split has, by the hash that ``order_of`` gives it.

    Reads on until all are found; the model runs on those batches alone that hold one.

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
