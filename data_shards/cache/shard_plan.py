"""Plan shards before they are written: the images of each, and its exact size in bytes.

Everything in a member except the features is known from its record: the grid from the image's size, the words
from the tokeniser. So shard boundaries are known in advance, any number of processes can share the work, and
what is written does not depend on their number.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from maris_fast.config import FeatureDtype
from maris_fast.data_shards.cache.annotation import Annotation
from maris_fast.data_shards.cache.features import STORED
from maris_fast.data_shards.cache.index import ShardIndex
from maris_fast.data_shards.cache.manifest import (
    ANNOTATION,
    LEVELS,
    MASKS,
    SCALES,
    TAR_BLOCK,
    WORDS,
    CacheHead,
    ShardPlan,
    members_of,
)
from maris_fast.data_shards.cache.photographs import LOOKING
from maris_fast.data_shards.cache.usable import Checking
from maris_fast.data_shards.records import ImageRecord, ImportedDataset
from maris_fast.encoders import TokenisedText
from maris_fast.errors import InputError
from maris_fast.geometry import ImageGeometry
from maris_fast.system.threads import mapped

TAR_RECORD = 20 * TAR_BLOCK
"""Unit that a tar is padded to, after two empty blocks."""


def plan_split(
    source: ImportedDataset,
    split: str,
    checking: Checking,
    head: CacheHead,
    advance: Callable[[], None] = lambda: None,
) -> list[ShardPlan]:
    """The split's shards, each ending with the first image that takes it to ``shard_bytes`` of the head.

    Args:
        checking: checks every record; what it rejects is in no shard.
        advance: called after each image.

    Raises:
        InputError: an image that occurs twice.
    """
    shards: list[ShardPlan] = []
    open_shard = GrowingShard(0)
    seen: set[int] = set()
    position = 0
    records = source.records_and_bytes(split)
    for (record, line_bytes), of_image in mapped(lambda one: checking.look(one[0]), records, LOOKING):
        if record.image_id in seen:
            raise InputError(
                f"image {record.image_id} appears twice in split {split} of {source.folder}; "
                "all sentences of an image belong in one record"
            )
        seen.add(record.image_id)
        if usable := checking.usable(split, record, of_image):
            sizes = member_bytes(*usable, head)
            open_shard.add(usable.record, usable.expressions, sizes)
        position += line_bytes
        advance()
        if open_shard.tar_bytes >= head.written_with.shard_bytes:
            shards.append(open_shard.plan(split, len(shards), head.feature_dtype))
            open_shard = GrowingShard(position)
    if open_shard.images:
        shards.append(open_shard.plan(split, len(shards), head.feature_dtype))
    return shards


def member_bytes(
    record: ImageRecord,
    geometry: ImageGeometry,
    expressions: list[TokenisedText],
    head: CacheHead,
) -> dict[str, int]:
    """Bytes of each of an image's members, by name."""
    stored = STORED[head.feature_dtype]
    height, width = geometry.mask_size
    words = sum(len(expression.tokens) for expression in expressions)
    level = npy_bytes(np.dtype(stored.bits), (*geometry.grid, head.channels))
    sizes = {name: level for name in LEVELS} | {
        ANNOTATION: len(Annotation.of(record, geometry, expressions, head.encoders).to_bytes()),
        MASKS: npy_bytes(np.dtype(np.uint8), (len(record.targets), height, -(-width // 8))),
        WORDS: npy_bytes(np.dtype(np.float16), (words, head.text_channels)),
    }
    if stored.largest is not None:
        sizes[SCALES] = npy_bytes(np.dtype(np.float32), (len(LEVELS), head.channels))
    return sizes


@lru_cache(maxsize=4096)
def npy_header(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> bytes:
    """The bytes before the data of a C-ordered array in a ``.npy``."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    )
    return head.getvalue()


def npy_bytes(dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> int:
    """Size of an array as a ``.npy``: numpy's header, then the data."""
    return len(npy_header(dtype, shape)) + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize


class GrowingShard:
    """A shard to which images are added; ``first_byte`` is where its first record begins."""

    def __init__(self, first_byte: int) -> None:
        self.first_byte = first_byte
        self.tar_bytes = self.images = self.expressions = self.targets = self.truncated = 0

    def add(self, record: ImageRecord, expressions: list[TokenisedText], sizes: dict[str, int]) -> None:
        self.tar_bytes += sum(TAR_BLOCK + _padded(size, TAR_BLOCK) for size in sizes.values())
        self.images += 1
        self.expressions += len(expressions)
        self.targets += len(record.targets)
        self.truncated += sum(expression.truncated for expression in expressions)

    def plan(self, split: str, number: int, feature_dtype: FeatureDtype) -> ShardPlan:
        index = ShardIndex.zeros(self.images, len(members_of(feature_dtype)), self.expressions)
        return ShardPlan(
            split=split,
            number=number,
            first_byte=self.first_byte,
            images=self.images,
            expressions=self.expressions,
            targets=self.targets,
            truncated_expressions=self.truncated,
            bytes=_padded(self.tar_bytes + 2 * TAR_BLOCK, TAR_RECORD),
            index_bytes=len(index.to_bytes()),
        )


def _padded(size: int, unit: int) -> int:
    return -(-size // unit) * unit
