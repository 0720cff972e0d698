"""Shards as open files."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

OPEN_FILES = 256
"""Opening costs a round trip on a network's file system; the usual limit of a process is 1,024."""


class ShardFiles(Protocol):
    """Gives the shards of a split, by their number, to any thread."""

    def name(self, shard: int) -> str:
        """For messages."""

    @contextmanager
    def opened(self, shard: int, alive: Callable[[], None]) -> Iterator[int]:
        """A descriptor for reading; ``alive`` is called whenever a long wait gets on."""

    def close(self) -> None: ...


class LocalFiles:
    """Shards of a folder; the last ``OPEN_FILES`` stay open."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self._lock = threading.Lock()
        self._open: OrderedDict[int, _Open] = OrderedDict()

    def name(self, shard: int) -> str:
        return str(self._paths[shard])

    @contextmanager
    def opened(self, shard: int, alive: Callable[[], None]) -> Iterator[int]:
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
            yield file.descriptor
        finally:
            with self._lock:
                file.done()

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
