"""Shards of one split: plain WebDataset tars that appear under their name only when complete."""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from dataclasses import astuple, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
import webdataset

from maris_fast.data_shards.cache.group import EncodedGroup, Member, key_of, members
from maris_fast.data_shards.cache.index import ShardIndex
from maris_fast.data_shards.cache.manifest import FeatureDtype, ShardEntry, SplitEntry, members_of

_BLOCK = 512  # of a tar: one header, and what members are padded to


@dataclass
class _Rows:
    """Index rows gathered while a shard grows."""

    image_id: list[int] = field(default_factory=list)
    geometry: list[tuple[int, ...]] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    offset: list[list[int]] = field(default_factory=list)
    size: list[list[int]] = field(default_factory=list)
    crc: list[list[int]] = field(default_factory=list)
    expressions: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    target: list[int] = field(default_factory=list)
    object: list[int] = field(default_factory=list)

    def index(self) -> ShardIndex:
        return ShardIndex(
            image_id=np.array(self.image_id, np.int64),
            geometry=np.array(self.geometry, np.int32),
            targets=np.array(self.targets, np.int32),
            offset=np.array(self.offset, np.int64),
            size=np.array(self.size, np.int64),
            crc=np.array(self.crc, np.uint32),
            expression_offset=np.concatenate([[0], np.cumsum(self.expressions)]).astype(np.int64),
            words=np.array(self.words, np.int32),
            target=np.array(self.target, np.int32),
            object=np.array(self.object, np.int64),
        )


class ShardWriter:
    """Writes image groups to ``<folder>/<split>-000000.tar`` and on, with an index beside each.

    The same groups give the same bytes. A shard is closed after the first group that takes it beyond
    ``shard_bytes``; under its own name it is complete and has its index.

    Use it as a context manager and call ``finish`` for the split's entry in the manifest; leaving the
    context without it drops the open shard.
    """

    def __init__(
        self,
        folder: Path,
        split: str,
        *,
        feature_dtype: FeatureDtype,
        shard_bytes: int,
        random: tuple[str, ...],
    ) -> None:
        self._folder = folder
        self._split = split
        self._feature_dtype = feature_dtype
        self._shard_bytes = shard_bytes
        self._random = random
        self._members = members_of(feature_dtype)
        self._entries: list[ShardEntry] = []
        self._targets = self._truncated = 0
        self._file: BinaryIO | None = None
        self._tar: webdataset.TarWriter | None = None
        self._rows = _Rows()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._tar is None or self._file is None:
            return
        with contextlib.suppress(OSError), self._file:
            self._tar.close()

    def add(self, group: EncodedGroup) -> None:
        """Write one image group.

        Raises:
            InputError: its features do not fit the stored dtype.
        """
        stored = members(group, self._feature_dtype, self._random)
        if self._tar is None:
            self._tar = self._open()
        self._append(self._tar, key_of(group.record), group, stored)
        self._targets += len(group.record.targets)
        self._truncated += sum(expression.truncated for expression in group.expressions)
        if self._tar.tarstream.offset >= self._shard_bytes:
            self._close()

    def finish(self) -> SplitEntry:
        """Close the last shard; what was written."""
        if self._tar is not None:
            self._close()
        return SplitEntry(
            shards=tuple(self._entries),
            images=sum(entry.images for entry in self._entries),
            targets=self._targets,
            expressions=sum(entry.expressions for entry in self._entries),
            truncated_expressions=self._truncated,
            bytes=sum(entry.bytes for entry in self._entries),
        )

    @property
    def _name(self) -> str:
        return f"{self._split}-{len(self._entries):06d}.tar"

    def _open(self) -> webdataset.TarWriter:
        self._file = (self._folder / f"{self._name}.part").open("wb")
        self._rows = _Rows()
        # A fixed time, owner and mode: a shard is a function of its groups alone.
        return webdataset.TarWriter(
            self._file, encoder=False, compress=False, mtime=0, user="maris", group="maris"
        )

    def _append(
        self, tar: webdataset.TarWriter, key: str, group: EncodedGroup, stored: dict[str, Member]
    ) -> None:
        start = tar.tarstream.offset
        tar.write({"__key__": key, **{name: member.content for name, member in stored.items()}})
        offsets, sizes, checksums = [], [], []
        for name in self._members:
            member = stored[name]
            end = start + _BLOCK + len(member.content)
            offsets.append(end - member.payload)
            sizes.append(member.payload)
            checksums.append(zlib.crc32(memoryview(member.content)[-member.payload :]))
            start = -(-end // _BLOCK) * _BLOCK
        if start != tar.tarstream.offset:
            raise AssertionError(f"{self._name}: the tar is not laid out as the index says at {key}")
        rows = self._rows
        rows.image_id.append(group.record.image_id)
        rows.geometry.append(astuple(group.geometry))
        rows.targets.append(len(group.record.targets))
        rows.offset.append(offsets)
        rows.size.append(sizes)
        rows.crc.append(checksums)
        rows.expressions.append(len(group.expressions))
        for expression, features in zip(group.record.expressions, group.expressions, strict=True):
            rows.words.append(len(features.tokens))
            rows.target.append(expression.target)
            rows.object.append(group.record.targets[expression.target].ann_id)

    def _close(self) -> None:
        assert self._tar is not None
        assert self._file is not None
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        self._file.close()
        index = self._rows.index()
        content = index.to_bytes()
        entry = ShardEntry(
            name=self._name,
            bytes=size,
            images=index.images,
            expressions=len(index.words),
            index_sha256=hashlib.sha256(content).hexdigest(),
        )
        part = self._folder / f"{entry.index_name}.part"
        part.write_bytes(content)
        part.rename(self._folder / entry.index_name)
        # Last: a shard under its own name has its index.
        (self._folder / f"{entry.name}.part").rename(self._folder / entry.name)
        self._entries.append(entry)
        self._tar = self._file = None
