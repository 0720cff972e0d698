"""Read the bytes of image groups from the shards directly into their destination."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np
from crc32c import crc32c

from maris_fast.config import StoreAddress, Verify
from maris_fast.data_shards.cache.index import ShardIndex
from maris_fast.data_shards.cache.manifest import CacheManifest, ShardEntry, members_of
from maris_fast.data_shards.cache.place import Files, size_of
from maris_fast.data_shards.cache.reading_index import impossible, read_index
from maris_fast.data_shards.stream.open_shards import Read, ShardFiles, Span
from maris_fast.errors import InputError
from maris_fast.system.object_store import StoreError

T = TypeVar("T")

PIECE = 1 << 19
"""Bytes of one read: few enough to be in the core's cache when their checksum is computed, and for the system
to read ahead meanwhile; enough to make system calls rare."""


class SplitShards:
    """Image groups of one split, read by position; thread-safe.

    Args:
        files: the split's shards.
        index: of all shards, concatenated.
        images: number of images of each shard.
        manifest: of the cache.
        verify: when an image's checksums are compared: at its first read, always, or never.
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
        self._first = np.cumsum([0, *images])
        self.members = members_of(manifest.feature_dtype)
        self._verify = verify
        self._verified = np.zeros(index.images, np.bool_)

    def where(self, image: int) -> str:
        """Shard and key, for messages."""
        shard = self._files.name(int(self._shard_of[image]))
        return f"shard {shard}, image {self.index.image_id[image]:012d}"

    def read_into(self, image: int, members: Sequence[memoryview], alive: Callable[[], None]) -> None:
        """Read all members of an image, each into its own memory.

        Args:
            image: its position in the split.
            members: in the order of ``members_of``, each of the size given in the index.
            alive: called whenever reading makes progress.

        Raises:
            InputError: the shard ends early or has vanished, or a member is not what was written; the message
                names shard and key, and the member.
            StoreError: the server does not deliver it; the message names shard, key and status.
        """
        check = self._verify == "always" or (self._verify == "first" and not self._verified[image])
        span = self._span(image)
        try:
            try:
                self._read_members(span, image, members, check, alive)
            except (InputError, OSError):
                if not self._files.forget(span):
                    raise
                self._read_members(span, image, members, check, alive)
        except OSError as error:
            raise InputError(f"{self.where(image)}: cannot be read: {_reason(error)}") from error
        except StoreError as error:
            raise StoreError(self.where(image), error.what, error.status) from error
        self._verified[image] |= check

    def close(self) -> None:
        self._files.close()

    def _span(self, image: int) -> Span:
        shard = int(self._shard_of[image])
        offset, size = self.index.offset[image], self.index.size[image]
        return Span(shard, image - int(self._first[shard]), int(offset[0]), int(offset[-1] + size[-1]))

    def _read_members(
        self,
        span: Span,
        image: int,
        members: Sequence[memoryview],
        check: bool,
        alive: Callable[[], None],
    ) -> None:
        offsets, checksums = self.index.offset[image].tolist(), self.index.crc[image].tolist()
        with self._files.opened(span, alive) as read:
            for name, member, offset, wanted in zip(self.members, members, offsets, checksums, strict=True):
                found = self._read(read, member, offset, image, check, alive)
                if check and found != wanted:
                    raise InputError(
                        f"{self.where(image)}: {name} is not what was written (checksum); "
                        "copy the shard again, or write the cache again"
                    )

    def _read(
        self,
        read: Read,
        member: memoryview,
        offset: int,
        image: int,
        check: bool,
        alive: Callable[[], None],
    ) -> int:
        """Read a member from ``offset``, piece by piece; return its checksum, or 0 without ``check``."""
        checksum = done = 0
        while done < len(member):
            piece = member[done : done + PIECE]
            count = read(piece, offset + done)
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


def require_shards(files: Files, entries: Sequence[ShardEntry], at_once: int) -> None:
    """Raise InputError if a shard is missing or does not have the size in the manifest."""

    def require(entry: ShardEntry) -> None:
        path = files / entry.name
        with _named("shard", path):
            size = size_of(files, entry.name)
        if size != entry.bytes:
            raise InputError(
                f"shard {path} has {size} bytes, the manifest says {entry.bytes}; "
                "copy it again, or write the cache again"
            )

    _of_each(files, entries, require, at_once)


def read_indexes(
    files: Files, entries: Sequence[ShardEntry], manifest: CacheManifest, at_once: int
) -> ShardIndex:
    """The indexes of all shards, concatenated.

    Args:
        at_once: concurrent requests, if ``files`` are below an address.

    Raises:
        InputError: one is missing, not the one that the manifest describes, or inconsistent.
    """

    def read(entry: ShardEntry) -> ShardIndex:
        with _named("index", files / entry.index_name):
            return read_index(files, entry, manifest)

    parts = _of_each(files, entries, read, at_once)
    index = ShardIndex.concatenate(parts)
    shard_of = np.repeat(np.arange(len(parts)), [part.images for part in parts])
    ends = np.array([entry.bytes for entry in entries])[shard_of]
    if (wrong := impossible(index, ends, manifest)) is not None:
        image, what = wrong
        path, key = files / entries[shard_of[image]].index_name, f"{index.image_id[image]:012d}"
        raise InputError(f"index {path}, image {key}: {what}; write the cache again")
    return index


def _of_each(
    files: Files, entries: Sequence[ShardEntry], work: Callable[[ShardEntry], T], at_once: int
) -> list[T]:
    """Apply ``work`` to each; at an address to many at a time, as each is a round trip."""
    if isinstance(files, Path):
        return [work(entry) for entry in entries]
    with ThreadPoolExecutor(at_once, thread_name_prefix="open") as threads:
        try:
            return list(threads.map(work, entries))
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


@contextmanager
def _named(kind: str, path: Path | StoreAddress) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"{kind} {path} is missing; copy it there, or write the cache again") from error
    except OSError as error:
        raise InputError(f"{kind} {path} cannot be read: {_reason(error)}") from error
    except StoreError as error:
        raise InputError(f"{kind} {error}") from error
