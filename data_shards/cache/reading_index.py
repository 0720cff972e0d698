"""Read a shard's index: no larger than the manifest says, and without impossible numbers."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from maris_fast.config import MOST_PIXELS_A_SIDE
from maris_fast.data_shards.cache.features import STORED
from maris_fast.data_shards.cache.index import ShardIndex, most_bytes
from maris_fast.data_shards.cache.manifest import (
    LEVELS,
    MASKS,
    SCALES,
    WORDS,
    CacheManifest,
    ShardEntry,
    members_of,
)
from maris_fast.data_shards.cache.place import Files, read_start
from maris_fast.errors import InputError
from maris_fast.geometry import PATCH
from maris_fast.images import MOST_PIXELS


def read_index(files: Files, entry: ShardEntry, manifest: CacheManifest) -> ShardIndex:
    """The index of a shard of the cache in ``files``.

    Raises:
        InputError: it is not the one that the manifest describes.
        OSError: there is none, or it cannot be read.
        StoreError: the server does not deliver it.
    """
    members = members_of(manifest.feature_dtype)
    most = most_bytes(entry.images, len(members), entry.expressions)
    path = files / entry.index_name
    content = read_start(files, entry.index_name, most + 1)
    if len(content) <= most and hashlib.sha256(content).hexdigest() == entry.index_sha256:
        index = ShardIndex.from_bytes(content, path)
        if (*index.size.shape, len(index.words)) == (entry.images, len(members), entry.expressions):
            return index
    raise InputError(
        f"index {path} is not the one that the manifest describes; copy it again, or write the cache again"
    )


def impossible(
    index: ShardIndex, shard_bytes: NDArray[np.int64], manifest: CacheManifest
) -> tuple[int, str] | None:
    """The first image with numbers that a reader must not use, and what is wrong; None if all are valid.

    Args:
        shard_bytes: [I], size of the shard that contains each image.
    """
    for what, possible in _checks(index, shard_bytes, manifest):
        if not possible.all():
            return int(np.flatnonzero(~possible)[0]), what
    return None


def _checks(
    index: ShardIndex, shard_bytes: NDArray[np.int64], manifest: CacheManifest
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """Checks, [I] each; a check's products cannot overflow where the check before it holds."""
    height, width, h_px, w_px, h, w = (column.astype(np.int64) for column in index.geometries)
    yield "no image has such a size", (height > 0) & (width > 0) & (height * width <= MOST_PIXELS)
    side = np.maximum(h_px, w_px)
    rounded_up = (h == -(-h_px // PATCH)) & (w == -(-w_px // PATCH))
    yield "no grid is like its", (np.minimum(h_px, w_px) > 0) & (side <= MOST_PIXELS_A_SIDE) & rounded_up
    columns = (index.offset, index.size)
    inside = np.stack([(column >= 0) & (column <= shard_bytes[:, None]) for column in columns]).all((0, 2))
    ends = index.offset + index.size
    apart = (index.offset[:, 1:] >= ends[:, :-1]).all(1) & (ends[:, -1] <= shard_bytes)
    yield "its members do not lie in the shard one after the other", inside & apart
    rows = np.repeat(np.arange(index.images), np.diff(index.expression_offset))

    def of_all(expressions: NDArray[np.bool_]) -> NDArray[np.bool_]:
        return np.bincount(rows[~expressions], minlength=index.images) == 0

    yield "an expression has no word", of_all(index.words > 0)
    meant = (index.target >= 0) & (index.target < index.targets[rows])
    yield "an expression means a target that the image lacks", of_all(meant)
    words = np.bincount(rows, weights=index.words, minlength=index.images).astype(np.int64)
    level = h * w * manifest.channels * STORED[manifest.feature_dtype].dtype.itemsize
    expected = {
        **dict.fromkeys(LEVELS, level),
        SCALES: np.full(index.images, 4 * len(LEVELS) * manifest.channels),
        WORDS: words * 2 * manifest.text_channels,
        MASKS: index.targets * 4 * h * -(-4 * w // 8),
    }
    members = members_of(manifest.feature_dtype)
    sizes = [expected.get(name, index.size[:, place]) for place, name in enumerate(members)]
    fits = (index.image_id >= 0) & (index.size == np.stack(sizes, axis=1)).all(1)
    yield "sizes are not those of what the manifest describes", fits
