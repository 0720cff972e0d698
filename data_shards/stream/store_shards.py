"""Shards below an address: an image is one range request, copied into the ring as it arrives."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from maris_fast.data_shards.cache.manifest import ShardEntry
from maris_fast.data_shards.stream.open_shards import Read, Span
from maris_fast.system.object_store import ObjectStore


class StoreFiles:
    """Shards of an object store or a web server, with as many concurrent requests as reader threads.

    Args:
        store: the one that holds the cache.
        entries: the split's shards.
    """

    def __init__(self, store: ObjectStore, entries: Sequence[ShardEntry]) -> None:
        self._store, self._entries = store, entries

    def name(self, shard: int) -> str:
        return str(self._store / self._entries[shard].name)

    @contextmanager
    def opened(self, span: Span, alive: Callable[[], None]) -> Iterator[Read]:
        stream = self._store.stream(self._entries[span.shard].name, span.start, span.stop)
        with closing(stream) as chunks:
            yield _Stream(chunks, span.start, alive).read

    def forget(self, span: Span) -> bool:
        return False

    def close(self) -> None: ...


class _Stream:
    """Bytes from ``place`` on, read sequentially."""

    def __init__(self, chunks: Iterator[bytes], place: int, alive: Callable[[], None]) -> None:
        self._chunks, self._place, self._alive = chunks, place, alive
        self._rest = memoryview(b"")

    def read(self, memory: memoryview, offset: int) -> int:
        """A ``Read``; headers between the members are skipped."""
        while self._place < offset or not self._rest:
            if not self._rest:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return 0
                self._rest = memoryview(chunk)
                self._alive()
            passed = min(offset - self._place, len(self._rest))
            self._rest, self._place = self._rest[passed:], self._place + passed
        count = min(len(memory), len(self._rest))
        memory[:count] = self._rest[:count]
        self._rest, self._place = self._rest[count:], self._place + count
        return count
