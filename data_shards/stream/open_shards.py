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
"""Opening costs a round trip on a network file system; the usual limit of a process is 1,024."""


Read = Callable[[memoryview, int], int]
"""Fills memory from an offset in a shard; returns the number of bytes, 0 at the end of the shard."""


@dataclass(frozen=True)
class Span:
    """Bytes ``start`` to ``stop`` of a shard, which contain the members of an image.

    Attributes:
        shard: its number in the split.
        image: its position in the shard.
    """

    shard: int
    image: int
    start: int
    stop: int


class ShardFiles(Protocol):
    """Access to the shards of a split by their number; thread-safe."""

    def name(self, shard: int) -> str:
        """A shard's name, for messages."""

    @contextmanager
    def opened(self, span: Span, alive: Callable[[], None]) -> Iterator[Read]:
        """A function that reads the span, from front to back, possibly with gaps.

        ``alive`` is called whenever a long wait makes progress. A block that ends without an error has found
        all bytes correct.
        """

    def forget(self, span: Span) -> bool:
        """Discard a copy of the span that turned out wrong; return whether there was one to be reread."""

    def close(self) -> None: ...


def reader_of(descriptor: int) -> Read:
    return lambda memory, offset: os.preadv(descriptor, [memory], offset)


class LocalFiles:
    """Shards of a folder; the last ``OPEN_FILES`` used stay open."""

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
    """A descriptor that is closed once it is neither kept nor read from."""

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
