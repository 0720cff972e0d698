"""The bytes of image groups, straight from the shards."""

from __future__ import annotations

import hashlib
import os
import threading
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from maris_fast.data_shards.cache.index import ShardIndex
from maris_fast.data_shards.cache.manifest import CacheManifest, members_of
from maris_fast.errors import InputError

Verify = Literal["first", "always", "never"]
S = TypeVar("S", bound=np.generic)


@dataclass(frozen=True)
class GroupBytes:
    """An image's members as raw bytes; valid until the next read of the same thread."""

    payloads: Mapping[str, NDArray[np.uint8]]

    def array(self, name: str, dtype: type[S], *shape: int) -> NDArray[S]:
        return self.payloads[name].view(dtype).reshape(shape)


class SplitShards:
    """The shards of one split, opened once and read by position; any thread may read.

    Args:
        folder: the cache.
        manifest: of the cache.
        split: one of the manifest's.
        verify: when an image's checksums are compared: at its first reading, always, or never.

    Raises:
        InputError: a shard or index is missing, or is not the one that the manifest describes.
    """

    def __init__(self, folder: Path, manifest: CacheManifest, split: str, verify: Verify) -> None:
        entry = manifest.splits[split]
        self._paths = [folder / shard.name for shard in entry.shards]
        parts = []
        for path, shard in zip(self._paths, entry.shards, strict=True):
            if not path.is_file():
                raise InputError(f"shard {path} is missing; copy it there, or write the cache again")
            if path.stat().st_size != shard.bytes:
                raise InputError(
                    f"shard {path} has {path.stat().st_size} bytes, the manifest says {shard.bytes}; "
                    "copy it again, or write the cache again"
                )
            parts.append(_read_index(folder / shard.index_name, shard.index_sha256))
        self.index = ShardIndex.concatenate(parts)
        self._shard_of = np.repeat(np.arange(len(parts)), [part.images for part in parts])
        self._members = members_of(manifest.feature_dtype)
        self._verify = verify
        self._verified = np.zeros(self.index.images, np.bool_)
        self._files: dict[int, int] = {}
        self._opening = threading.Lock()
        self._buffers = threading.local()

    def read(self, image: int) -> GroupBytes:
        """All members of an image in one read.

        Raises:
            InputError: the shard ends early or vanished, or a member is not what was written; names shard,
                key and member.
        """
        shard = int(self._shard_of[image])
        offsets = self.index.offset[image].tolist()
        sizes = self.index.size[image].tolist()
        start, stop = min(offsets), max(o + s for o, s in zip(offsets, sizes, strict=True))
        buffer = self._buffer(stop - start)
        self._fill(buffer, shard, start, image)
        payloads = {
            name: buffer[offset - start : offset - start + size]
            for name, offset, size in zip(self._members, offsets, sizes, strict=True)
        }
        if self._verify == "always" or (self._verify == "first" and not self._verified[image]):
            self._check(payloads, shard, image)
            self._verified[image] = True
        return GroupBytes(payloads)

    def close(self) -> None:
        with self._opening:
            for file in self._files.values():
                os.close(file)
            self._files.clear()

    def _buffer(self, size: int) -> NDArray[np.uint8]:
        # Kept from read to read: fresh memory of this size costs as much as reading it.
        kept: NDArray[np.uint8] | None = getattr(self._buffers, "memory", None)
        if kept is None or len(kept) < size:
            kept = self._buffers.memory = np.empty(size, np.uint8)
        return kept[:size]

    def _fill(self, buffer: NDArray[np.uint8], shard: int, start: int, image: int) -> None:
        view = buffer.data
        done = 0
        try:
            file = self._file(shard)
            while done < len(view):
                count = os.preadv(file, [view[done:]], start + done)
                if not count:
                    raise InputError(
                        f"shard {self._paths[shard]} ends before image {self.index.image_id[image]:012d}; "
                        "copy it again, or write the cache again"
                    )
                done += count
        except OSError as error:
            raise InputError(
                f"shard {self._paths[shard]} cannot be read at image "
                f"{self.index.image_id[image]:012d}: {error}"
            ) from error

    def _file(self, shard: int) -> int:
        with self._opening:
            if shard not in self._files:
                self._files[shard] = os.open(self._paths[shard], os.O_RDONLY)
            return self._files[shard]

    def _check(self, payloads: Mapping[str, NDArray[np.uint8]], shard: int, image: int) -> None:
        expected = self.index.crc[image].tolist()
        for (name, payload), checksum in zip(payloads.items(), expected, strict=True):
            if zlib.crc32(payload.data) != checksum:
                raise InputError(
                    f"shard {self._paths[shard]}: {name} of image {self.index.image_id[image]:012d} is not "
                    "what was written (checksum); copy the shard again, or write the cache again"
                )


def _read_index(path: Path, sha256: str) -> ShardIndex:
    if not path.is_file():
        raise InputError(f"index {path} is missing; copy it there, or write the cache again")
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != sha256:
        raise InputError(
            f"index {path} is not the one that the manifest describes; "
            "copy it again, or write the cache again"
        )
    return ShardIndex.from_bytes(content, path)
