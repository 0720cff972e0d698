"""The bytes of image groups, straight from the shards to where they are wanted."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from crc32c import crc32c

from maris_fast.config import Verify
from maris_fast.data_shards.cache.index import ShardIndex
from maris_fast.data_shards.cache.manifest import CacheManifest, ShardEntry, members_of
from maris_fast.data_shards.cache.reading_index import impossible, read_index
from maris_fast.data_shards.stream.open_shards import ShardFiles
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
    parts = [_read_index(path, entry, manifest) for path, entry in zip(paths, entries, strict=True)]
    index = ShardIndex.concatenate(parts)
    shard_of = np.repeat(np.arange(len(parts)), [part.images for part in parts])
    ends = np.array([entry.bytes for entry in entries])[shard_of]
    if (wrong := impossible(index, ends, manifest)) is not None:
        image, what = wrong
        path, key = paths[shard_of[image]], f"{index.image_id[image]:012d}"
        raise InputError(f"index {path}, image {key}: {what}; write the cache again")
    return index


def _read_index(path: Path, entry: ShardEntry, manifest: CacheManifest) -> ShardIndex:
    try:
        return read_index(path, entry, manifest)
    except FileNotFoundError as error:
        raise InputError(f"index {path} is missing; copy it there, or write the cache again") from error
    except OSError as error:
        raise InputError(f"index {path} cannot be read: {_reason(error)}") from error
