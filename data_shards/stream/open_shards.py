"""Shards as open files."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

OPEN_FILES = 256
"""Opening costs a round trip on a network's file system; the usual limit of a process is 1,024."""


Read = Callable[[memoryview, int], int]
"""Fills memory from an offset of a shard on; how many bytes, 0 where the shard ends."""


@dataclass(frozen=True)
class Span:
    """Bytes ``start`` to ``stop`` of a shard, in which the members of an image lie.

    Attributes:
        shard: by its number in the split.
        image: by its place in the shard.
    """

    shard: int
    image: int
    start: int
    stop: int


class ShardFiles(Protocol):
    """Gives the shards of a split, by their number, to any thread."""

    def name(self, shard: int) -> str:
        """For messages."""

    @contextmanager
    def opened(self, span: Span, alive: Callable[[], None]) -> Iterator[Read]:
        """What reads the span, from front to back, possibly with gaps.

        ``alive`` is called whenever a long wait gets on. A block that ends well has found all bytes right.
        """

    def forget(self, span: Span) -> bool:
        """Throws away a copy of the span that turned out wrong; whether there was one to be read anew."""

    def close(self) -> None: ...


def reader_of(descriptor: int) -> Read:
    return lambda memory, offset: os.preadv(descriptor, [memory], offset)


class LocalFiles:
    """Shards of a folder; the last ``OPEN_FILES`` stay open."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Open] = OrderedDict()

    def name(self, shard: int) -> str:
        return str(self._paths[shard])

    @contextmanager
    def opened(self, span: Span, alive: Callable[[], None]) -> Iterator[Read]:
        shard = span.shard
        with self._lock:
            if shard not in self._open:
                self._open[shard] = _Open(os.open(self._paths[shard], os.O_RDONLY))
            self._open.move_to_end(shard)
            file = self._open[shard]
            file.readers += 1
            if len(self._open) > OPEN_FILES:
                _, oldest = self._open.popitem(last=False)
                oldest.leave()
        try:
            yield reader_of(file.descriptor)
        finally:
            with self._lock:
                file.done()

    def forget(self, span: Span) -> bool:
        return False

    def close(self) -> None:
        with self._lock:
            for file in self._open.values():
                file.leave()
            self._open.clear()


class _Open:
    """A descriptor that is closed when nobody keeps it and nobody reads from it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.readers = 0
        self._kept = True

    def leave(self) -> None:
        self._kept = False
        self._close_if_unused()

    def done(self) -> None:
        self.readers -= 1
        self._close_if_unused()

    def _close_if_unused(self) -> None:
        if not self._kept and not self.readers:
            os.close(self.descriptor)
