"""Layout of a batch in its slot: the shard's bytes, unchanged, and small tables beside them.

The slot goes to the device in one copy; nothing is moved on the host after it was read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maris_fast.data_shards.cache.features import STORED
from maris_fast.data_shards.cache.index import ShardIndex
from maris_fast.data_shards.cache.manifest import (
    ANNOTATION,
    LEVELS,
    MASKS,
    SCALES,
    WORDS,
    CacheManifest,
    members_of,
)
from maris_fast.data_shards.stream.step_order import Group, Share

_ALIGN = 256


@dataclass(frozen=True)
class Area:
    """An array in the slot."""

    start: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        return int(np.prod(self.shape)) * self.dtype.itemsize

    def of(self, memory: Tensor) -> Tensor:
        """The array in ``memory``, uint8 [size]."""
        return memory[self.start : self.start + self.bytes].view(self.dtype).view(self.shape)


@dataclass(frozen=True)
class Layout:
    """Areas of a batch of I images and E expressions."""

    size: int
    """Bytes of the slot."""
    levels: tuple[Area, Area, Area]
    """Stored features, [I, h, w, C_v] each."""
    scales: Area | None
    """Float32 [I, 3, C_v]; None if features are stored without scales."""
    words: Area
    """Float16 [words of all the images' expressions, C']."""
    masks: Area
    """Uint8 [masks of all images, 4h, ceil(4w / 8)], packed bits."""
    word_rows: Area
    """Int64 [E, L_t]: a row of ``words``, -1 beyond an expression's length."""
    mask_rows: Area
    """Int64 [E]: a row of ``masks``."""
    expr_offsets: Area
    """Int32 [I + 1]."""
    weights: Area
    """Float32 [E]."""
    mask_width: int
    """4w."""
    members: tuple[tuple[tuple[int, int], ...], ...]
    """[I][M]: start and end of each member of each image in the slot; (-1, -1): not in the slot."""


class Layouts:
    """Lays out batches of one split."""

    def __init__(self, index: ShardIndex, manifest: CacheManifest) -> None:
        self._index, self._grids = index, index.grids
        self._channels, self._text_channels = manifest.channels, manifest.text_channels
        self._dtype = STORED[manifest.feature_dtype].dtype
        self._members = members_of(manifest.feature_dtype)
        kept = [name != ANNOTATION for name in self._members]
        tables = np.diff(index.expression_offset) * 8 * (int(index.words.max(initial=0)) + 2) + 8
        areas = len(self._members) + 4
        self.slot_bytes: NDArray[np.int64] = index.size[:, kept].sum(1) + tables + areas * _ALIGN
        """[I]: the most bytes that an image takes in a slot, by itself or with others."""

    def of(self, share: Share) -> Layout:
        """The layout of a share of a step; all its groups have the same grid."""
        index, groups = self._index, share.groups
        (grid,) = {tuple(self._grids[group.image].tolist()) for group in groups}
        h, w = grid
        images = [group.image for group in groups]
        expressions = sum(map(len, groups))
        longest = max(int(self.lengths(group).max()) for group in groups)
        rows = _Rows()
        words = [int(index.words[self._rows(image)].sum()) for image in images]
        masks = index.targets[images].tolist()
        count = len(images)
        level = (count, h, w, self._channels)
        first, second, third = (rows.area(level, self._dtype) for _ in LEVELS)
        scales = (
            rows.area((count, len(LEVELS), self._channels), torch.float32)
            if SCALES in self._members
            else None
        )
        word_area = rows.area((sum(words), self._text_channels), torch.float16)
        mask_area = rows.area((sum(masks), 4 * h, -(-4 * w // 8)), torch.uint8)
        whole = {
            LEVELS[0]: (first, [1] * count),
            LEVELS[1]: (second, [1] * count),
            LEVELS[2]: (third, [1] * count),
            WORDS: (word_area, words),
            MASKS: (mask_area, masks),
        }
        if scales is not None:
            whole[SCALES] = (scales, [1] * count)
        columns = [_spans(*whole[name]) if name in whole else [(-1, -1)] * count for name in self._members]
        return Layout(
            levels=(first, second, third),
            scales=scales,
            words=word_area,
            masks=mask_area,
            word_rows=rows.area((expressions, longest), torch.int64),
            mask_rows=rows.area((expressions,), torch.int64),
            expr_offsets=rows.area((count + 1,), torch.int32),
            weights=rows.area((expressions,), torch.float32),
            mask_width=4 * w,
            members=tuple(zip(*columns, strict=True)),
            size=rows.size,
        )

    def fill_tables(self, share: Share, layout: Layout, memory: Tensor) -> None:
        """Write ``word_rows``, ``mask_rows``, ``expr_offsets`` and ``weights``."""
        index = self._index
        starts, lengths, masks = [], [], []
        words_before = masks_before = 0
        for group in share.groups:
            own = self._rows(group.image)
            ends = np.cumsum(index.words[own])
            length = self.lengths(group)
            starts.append(words_before + ends[list(group.words_of or group.expressions)] - length)
            lengths.append(length)
            masks.append(masks_before + index.target[own][list(group.expressions)])
            words_before += int(ends[-1])
            masks_before += int(index.targets[group.image])
        place = np.arange(layout.word_rows.shape[1])
        rows = np.concatenate(starts)[:, None] + place
        rows[place >= np.concatenate(lengths)[:, None]] = -1
        layout.word_rows.of(memory).numpy()[:] = rows
        layout.mask_rows.of(memory).numpy()[:] = np.concatenate(masks)
        layout.expr_offsets.of(memory).numpy()[:] = np.cumsum([0, *map(len, share.groups)])
        layout.weights.of(memory).fill_(0.0 if share.padding else 1.0)

    def lengths(self, group: Group) -> NDArray[np.int32]:
        """Number of words of each expression of a group."""
        lengths: NDArray[np.int32] = self._index.words[self._rows(group.image)][
            list(group.words_of or group.expressions)
        ]
        return lengths

    def _rows(self, image: int) -> slice:
        start, stop = self._index.expression_offset[image : image + 2].tolist()
        return slice(start, stop)


class _Rows:
    """Consecutive areas."""

    def __init__(self) -> None:
        self.size = 0

    def area(self, shape: tuple[int, ...], dtype: torch.dtype) -> Area:
        area = Area(self.size, shape, dtype)
        self.size = -(-(self.size + area.bytes) // _ALIGN) * _ALIGN
        return area


def _spans(area: Area, rows: list[int]) -> list[tuple[int, int]]:
    """Start and end of each image's part of an area, given how many of its rows each image has."""
    row = area.bytes // area.shape[0]
    ends = (area.start + row * np.cumsum(rows)).tolist()
    return [(end - row * count, end) for end, count in zip(ends, rows, strict=True)]
