"""From stored bytes to the tensors that the model takes, on its device."""

from __future__ import annotations

from typing import TypedDict

import torch
from torch import Tensor

from maris_fast.data_shards.cache.features import from_stored
from maris_fast.data_shards.cache.manifest import LEVELS
from maris_fast.data_shards.stream.batch import Batch
from maris_fast.data_shards.stream.layout import Layout
from maris_fast.data_shards.stream.reused_memory import ReusedMemory

_BATCHES = 3  # in use, waiting and being unpacked


class Tensors(TypedDict):
    """The tensors of a ``Batch``, by the names of its fields."""

    features: tuple[Tensor, Tensor, Tensor]
    words: Tensor
    word_mask: Tensor
    expr_offsets: Tensor
    targets: Tensor
    weights: Tensor


class DeviceStage:
    """Copies a slot to the device in one piece and unpacks it there.

    On CUDA both happen on a separate stream, beside the model's work; ``__call__`` returns when they are
    done, so the slot is free then, and the consumer calls ``hand_over`` in its own stream. On a CPU the slot
    is unpacked without a copy, into the memory of features that nothing refers to any more.

    Args:
        device: of the model.
        dtype: of features and words, in which the model computes.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self._device, self._dtype = device, dtype
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._features = ReusedMemory(_BATCHES * len(LEVELS))

    def __call__(self, memory: Tensor, layout: Layout) -> Tensors:
        """Tensors of a batch; none of them shares ``memory``.

        Args:
            memory: uint8 [layout.size], on the host; pinned for an asynchronous copy.
            layout: of ``memory``.
        """
        if self._stream is None:
            return unpack(memory, layout, self._dtype, self._features)
        # A thread begins on the first GPU, and goes back to it after the stream: without this, the threads of
        # all ranks would open a context there.
        torch.cuda.set_device(self._stream.device)
        with torch.cuda.stream(self._stream):
            tensors = unpack(memory.to(self._device, non_blocking=True), layout, self._dtype, self._features)
        self._stream.synchronize()
        return tensors

    def hand_over(self, batch: Batch) -> None:
        """Mark the batch as used by the current stream, so that its memory is not reused too early."""
        if self._stream is None:
            return
        user = torch.cuda.current_stream(self._device)
        others = (batch.words, batch.word_mask, batch.expr_offsets, batch.targets, batch.weights)
        for tensor in (*batch.features, *others):
            tensor.record_stream(user)


def unpack(memory: Tensor, layout: Layout, dtype: torch.dtype, on_host: ReusedMemory) -> Tensors:
    """A slot's bytes, on any device, as the model takes them; on a CPU, features go into ``on_host``."""
    scales = None if layout.scales is None else layout.scales.of(memory)
    first, second, third = (
        _features(area.of(memory), None if scales is None else scales[:, level], dtype, on_host)
        for level, area in enumerate(layout.levels)
    )
    rows = layout.word_rows.of(memory)
    word_mask = rows >= 0
    words = layout.words.of(memory)[rows.clamp(min=0)].to(dtype)
    return {
        "features": (first, second, third),
        "words": words.masked_fill_(~word_mask[..., None], 0),
        "word_mask": word_mask,
        "expr_offsets": layout.expr_offsets.of(memory).clone(),
        "targets": unpack_masks(layout.masks.of(memory)[layout.mask_rows.of(memory)], layout.mask_width),
        "weights": layout.weights.of(memory).clone(),
    }


def _features(q: Tensor, scale: Tensor | None, dtype: torch.dtype, on_host: ReusedMemory) -> Tensor:
    """[I, h, w, C_v] of ``dtype`` from stored numbers of that shape and scales, float32 [I, C_v]."""
    if q.is_cuda:
        out = torch.empty(q.shape, dtype=dtype, device=q.device)
        from_stored(q, None if scale is None else scale[:, None, None], out)
        return out
    out = on_host.empty(q.shape, dtype)
    # One image at a time: what was just written is still in the cache when it is scaled.
    for i in range(len(q)):
        from_stored(q[i], None if scale is None else scale[i], out[i])
    return out


def unpack_masks(packed: Tensor, width: int) -> Tensor:
    """Bool [E, 4h, 4w] from bits [E, 4h, ceil(4w / 8)], the first pixel in the highest; ``width`` is 4w.

    The inverse of ``cache.mask_targets.pack_masks``.
    """
    bit = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], dtype=torch.uint8, device=packed.device)
    return ((packed[..., None] & bit) != 0).flatten(-2)[..., :width].contiguous()
