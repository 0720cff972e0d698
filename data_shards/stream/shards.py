"""The bytes of image groups, straight from the shards to where they are wanted."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from maris_fast.config import Verify
from maris_fast.data_shards.cache.features import STORED
from maris_fast.data_shards.cache.index import ShardIndex
from maris_fast.data_shards.cache.manifest import (
    LEVELS,
    MASKS,
    SCALES,
    WORDS,
    CacheManifest,
    ShardEntry,
    members_of,
)
from maris_fast.data_shards.stream.files import ShardFiles
from maris_fast.errors import InputError

PIECE = 1 << 19
"""Bytes of one read: few enough to be in the core's cache when their checksum is made, and for the system to
read ahead meanwhile; enough to make system calls rare."""


class SplitShards:
    """Image groups of one split, read by position; any thread may read.

    Args:
        files: the split's shards.
        index: of all shards, one behind the other.
        images: of each shard.
        manifest: of the cache.
        verify: when an image's checksums are compared: at its first reading, always, or never.
    """

    def __init__(
        self,
        files: ShardFiles,
        index: ShardIndex,
        images: Sequence[int],
        manifest: CacheManifest,
        verify: Verify,
    ) -> None:
        self._files = files
        self.index = index
        self._shard_of = np.repeat(np.arange(len(images)), images)
        self.members = members_of(manifest.feature_dtype)
        self._verify = verify
        self._verified = np.zeros(index.images, np.bool_)

    def where(self, image: int) -> str:
        """Shard and key, for messages."""
        shard = self._files.name(int(self._shard_of[image]))
        return f"shard {shard}, image {self.index.image_id[image]:012d}"

    def read_into(self, image: int, members: Sequence[memoryview], alive: Callable[[], None]) -> None:
        """All members of an image, each into its own memory.

        Args:
            image: which.
            members: in the order of ``members_of``, each of the size that the index says.
            alive: called whenever reading gets on.

        Raises:
            InputError: the shard ends early or vanished, or a member is not what was written; names shard,
                key and member.
        """
        check = self._verify == "always" or (self._verify == "first" and not self._verified[image])
        offsets, checksums = self.index.offset[image].tolist(), self.index.crc[image].tolist()
        try:
            with self._files.opened(int(self._shard_of[image]), alive) as file:
                for name, member, offset, wanted in zip(
                    self.members, members, offsets, checksums, strict=True
                ):
                    read = self._read(file, member, offset, image, check, alive)
                    if check and read != wanted:
                        raise InputError(
                            f"{self.where(image)}: {name} is not what was written (checksum); "
                            "copy the shard again, or write the cache again"
                        )
        except OSError as error:
            raise InputError(f"{self.where(image)}: cannot be read: {_reason(error)}") from error
        self._verified[image] |= check

    def close(self) -> None:
        self._files.close()

    def _read(
        self,
        file: int,
        member: memoryview,
        offset: int,
        image: int,
        check: bool,
        alive: Callable[[], None],
    ) -> int:
        """A member from ``offset`` on, piece by piece; its checksum, 0 without ``check``."""
        checksum = done = 0
        while done < len(member):
            piece = member[done : done + PIECE]
            count = os.preadv(file, [piece], offset + done)
            if not count:
                raise InputError(
                    f"{self.where(image)}: the shard ends before it; copy it again, or write the cache again"
                )
            if check:
                checksum = crc32c(piece[:count], checksum)
            done += count
            alive()
        return checksum


def _reason(error: OSError) -> str:
    if error.errno == errno.EIO:
        return f"{error}; the disk or network is failing, copy the shard elsewhere"
    return str(error)


def require_shard(path: Path, entry: ShardEntry) -> None:
    """Raises InputError: a shard is missing, or has another size than the manifest says."""
    try:
        size = path.stat().st_size
    except FileNotFoundError as error:
        raise InputError(f"shard {path} is missing; copy it there, or write the cache again") from error
    except OSError as error:
        raise InputError(f"shard {path} cannot be read: {_reason(error)}") from error
    if size != entry.bytes:
        raise InputError(
            f"shard {path} has {size} bytes, the manifest says {entry.bytes}; "
            "copy it again, or write the cache again"
        )


def read_indexes(folder: Path, entries: Sequence[ShardEntry], manifest: CacheManifest) -> ShardIndex:
    """The indexes of all shards, one behind the other.

    Raises:
        InputError: one is missing, not the one that the manifest describes, or at odds with itself.
    """
    paths = [folder / entry.index_name for entry in entries]
    parts = [_read_index(path, entry) for path, entry in zip(paths, entries, strict=True)]
    index = ShardIndex.concatenate(parts)
    shard_of = np.repeat(np.arange(len(parts)), [part.images for part in parts])
    ends = np.array([entry.bytes for entry in entries])[shard_of]
    wrong = np.flatnonzero(~_consistent(index, ends, manifest))
    if len(wrong):
        raise InputError(
            f"index {paths[shard_of[wrong[0]]]}, image {index.image_id[wrong[0]]:012d}: sizes are not those "
            "of what the manifest describes; write the cache again"
        )
    return index


def _read_index(path: Path, entry: ShardEntry) -> ShardIndex:
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"index {path} is missing; copy it there, or write the cache again") from error
    except OSError as error:
        raise InputError(f"index {path} cannot be read: {_reason(error)}") from error
    index = None
    if hashlib.sha256(content).hexdigest() == entry.index_sha256:
        index = ShardIndex.from_bytes(content, path)
    if index is None or (index.images, len(index.words)) != (entry.images, entry.expressions):
        raise InputError(
            f"index {path} is not the one that the manifest describes; "
            "copy it again, or write the cache again"
        )
    return index


def _consistent(
    index: ShardIndex, shard_bytes: NDArray[np.int64], manifest: CacheManifest
) -> NDArray[np.bool_]:
    """[I]: whether members lie one behind the other in the shard and have the sizes of what they hold."""
    h, w = index.geometry[:, 4].astype(np.int64), index.geometry[:, 5].astype(np.int64)
    rows = np.repeat(np.arange(index.images), np.diff(index.expression_offset))
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
    ends = index.offset + index.size
    fits: NDArray[np.bool_] = (
        (index.size == np.stack(sizes, axis=1)).all(1)
        & (index.offset[:, 1:] >= ends[:, :-1]).all(1)
        & (index.offset[:, 0] >= 0)
        & (ends[:, -1] <= shard_bytes)
    )
    return fits
