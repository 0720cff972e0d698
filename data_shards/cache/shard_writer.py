"""One shard: a plain WebDataset tar and its index, which appear under their names only when complete."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import astuple
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import webdataset
from crc32c import crc32c

from maris_fast.data_shards.cache.group import EncodedGroup, key_of, members
from maris_fast.data_shards.cache.index import ShardIndex, object_of
from maris_fast.data_shards.cache.manifest import CacheHead, ShardEntry, ShardPlan, SplitEntry, members_of
from maris_fast.data_shards.cache.shard_plan import TAR_BLOCK
from maris_fast.errors import InputError
from maris_fast.system.new_files import new_file


def write_shard(
    folder: Path,
    plan: ShardPlan,
    groups: Iterable[EncodedGroup],
    head: CacheHead,
    *,
    ahead: int,
) -> None:
    """Write the planned shard; the same groups give the same bytes.

    A thread quantises and writes while the next groups are encoded.

    Args:
        groups: of the planned records, in their order.
        ahead: groups that may wait to be written; memory is bounded by it.

    Raises:
        InputError: features do not fit the stored dtype, another process is writing this shard, or the
            records are not those of the plan.
        OSError: the disk fails; nothing is left under a final name.
    """
    with new_file(folder / plan.name) as file, _OpenShard(file, plan, head) as shard:
        with ThreadPoolExecutor(1, thread_name_prefix="shard") as writer:
            waiting: deque[Future[None]] = deque()
            try:
                for group in groups:
                    waiting.append(writer.submit(shard.add, group))
                    if len(waiting) > ahead:
                        waiting.popleft().result()
                while waiting:
                    waiting.popleft().result()
            finally:
                for future in waiting:
                    future.cancel()
        index = shard.finish().to_bytes()
        if (file.tell(), len(index)) != (plan.bytes, plan.index_bytes):
            raise InputError(
                f"shard {plan.name} came out at {file.tell()} bytes instead of {plan.bytes}: the data set "
                "was changed while it was read; leave it as it is until the cache is complete"
            )
        # Before the shard gets its name: a shard under its final name has its index.
        with new_file(folder / plan.index_name) as beside:
            beside.write(index)


def is_written(folder: Path, plan: ShardPlan) -> bool:
    """Whether the planned shard is in ``folder``, judged by its file sizes and its index's counts."""
    tar, beside = folder / plan.name, folder / plan.index_name
    try:
        if (tar.stat().st_size, beside.stat().st_size) != (plan.bytes, plan.index_bytes):
            return False
        index = ShardIndex.from_bytes(beside.read_bytes(), beside)
    except (FileNotFoundError, InputError):
        return False
    return (index.images, len(index.words)) == (plan.images, plan.expressions)


def split_entry(shards: Sequence[ShardPlan], index_sha256: Callable[[ShardPlan], str]) -> SplitEntry:
    """The manifest's entry for a split whose shards are written, given the hashes of their indexes."""
    return SplitEntry(
        shards=tuple(
            ShardEntry(
                name=shard.name,
                bytes=shard.bytes,
                images=shard.images,
                expressions=shard.expressions,
                index_sha256=index_sha256(shard),
            )
            for shard in shards
        ),
        images=sum(shard.images for shard in shards),
        targets=sum(shard.targets for shard in shards),
        expressions=sum(shard.expressions for shard in shards),
        truncated_expressions=sum(shard.truncated_expressions for shard in shards),
        bytes=sum(shard.bytes for shard in shards),
    )


class _OpenShard:
    def __init__(self, file: BinaryIO, plan: ShardPlan, head: CacheHead) -> None:
        self._plan, self._head = plan, head
        self._members = members_of(head.feature_dtype)
        self._index = ShardIndex.zeros(plan.images, len(self._members), plan.expressions)
        self._images = self._expressions = 0
        # A fixed time, owner and mode: a shard depends on its groups alone.
        self._tar = webdataset.TarWriter(
            file, encoder=False, compress=False, mtime=0, user="maris", group="maris"
        )

    def __enter__(self) -> _OpenShard:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # a full disk, already raised
            self._tar.close()

    def add(self, group: EncodedGroup) -> None:
        stored = members(group, self._head)
        key = key_of(group.record)
        start = self._tar.tarstream.offset
        self._tar.write({"__key__": key, **{name: member.content for name, member in stored.items()}})
        index, image, row = self._index, self._images, self._expressions
        for m, name in enumerate(self._members):
            member = stored[name]
            end = start + TAR_BLOCK + len(member.content)
            index.offset[image, m] = end - member.payload
            index.size[image, m] = member.payload
            index.crc[image, m] = crc32c(memoryview(member.content)[-member.payload :])
            start = -(-end // TAR_BLOCK) * TAR_BLOCK
        if start != self._tar.tarstream.offset:
            raise AssertionError(f"{self._plan.name}: the tar is not laid out as the index says at {key}")
        index.image_id[image] = group.record.image_id
        index.geometry[image] = astuple(group.geometry)
        index.targets[image] = len(group.record.targets)
        index.expression_offset[image + 1] = row + len(group.expressions)
        for expression, features in zip(group.record.expressions, group.expressions, strict=True):
            index.words[row] = len(features.tokens)
            index.target[row] = expression.target
            index.object[row] = object_of(group.record, expression.target)
            row += 1
        self._images, self._expressions = image + 1, row

    def finish(self) -> ShardIndex:
        self._tar.close()
        return self._index
