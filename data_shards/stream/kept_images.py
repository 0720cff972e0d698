"""Images of a remote cache, kept on a local disk once they have been read.

A shard's file in the staging folder has the shard's size, with holes where nothing was read yet, followed by
one byte per image: 1 when all its members are stored and were correct. Ranks and threads write to it without
a lock: two that read the same image write the same bytes, and the byte is set last.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from maris_fast.data_shards.cache.manifest import CacheManifest, ShardEntry
from maris_fast.data_shards.stream.open_shards import Read, ShardFiles, Span, reader_of
from maris_fast.data_shards.stream.staging_folder import KEPT, Copy, StagingFolder, open_copy, write_at

log = logging.getLogger(__name__)

IN_USE_SECONDS = 600
"""A copy of another cache that was read within this time counts as in use by a run, and stays."""
_POLL_SECONDS = 0.05
_AGAIN_SECONDS = 60
"""Seconds between checks for room, after there was none."""


class KeptImages:
    """Shards of ``far``, read through a local folder.

    An epoch reads each image once, in a different order each time. So if a cache does not fit, kept images
    stay: any eviction would discard something that is needed as soon. Only other caches' copies are evicted.

    Args:
        far: the remote shards.
        entries: the split's shards.
        manifest: of the cache.
        folder, most: where images are kept, and at most how many bytes.

    Raises:
        ConfigError: the folder cannot be created.
    """

    def __init__(
        self,
        far: ShardFiles,
        entries: Sequence[ShardEntry],
        manifest: CacheManifest,
        folder: Path,
        most: int,
    ) -> None:
        self._far, self._entries = far, entries
        self._folder = StagingFolder(folder, most)
        shards = [entry for split in manifest.splits.values() for entry in split.shards]
        self._own = {self._folder.path_of(entry, KEPT) for entry in shards}
        self._beginning = threading.Lock()
        self._look_again = 0.0
        self._broken = False
        total = sum(_size(entry) for entry in entries)
        if total > most:
            log.warning(
                "data.staging_bytes = %s keeps %.0f%% of the split's %s bytes; each epoch reads the rest "
                "from %s again",
                f"{most:,}",
                100 * most / total,
                f"{total:,}",
                far.name(0),
            )

    def name(self, shard: int) -> str:
        return self._far.name(shard)

    @contextmanager
    def opened(self, span: Span, alive: Callable[[], None]) -> Iterator[Read]:
        entry = self._entries[span.shard]
        file = self._open(entry, alive)
        if file is None:
            with self._far.opened(span, alive) as read:
                yield read
            return
        try:
            if _has(file, entry, span.image):
                yield reader_of(file)
                return
            with self._far.opened(span, alive) as read:
                yield self._copying(read, file)
            self._write(file, memoryview(b"\1"), entry.bytes + span.image)
        finally:
            os.close(file)

    def forget(self, span: Span) -> bool:
        entry = self._entries[span.shard]
        file = open_copy(self._folder.path_of(entry, KEPT), os.O_RDWR)
        if file is None:
            return False
        try:
            had = _has(file, entry, span.image)
            os.pwrite(file, b"\0", entry.bytes + span.image)
        finally:
            os.close(file)
        return had

    def close(self) -> None:
        self._far.close()

    def _copying(self, read: Read, file: int) -> Read:
        def read_and_copy(memory: memoryview, offset: int) -> int:
            count = read(memory, offset)
            self._write(file, memory[:count], offset)
            return count

        return read_and_copy

    def _write(self, file: int, content: memoryview, place: int) -> None:
        if not self._broken:
            try:
                write_at(file, content, place)
            except OSError as error:
                self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Stop writing copies: none is needed, so a full disk must not end the run."""
        if not self._broken:
            self._broken = True
            log.warning(
                "data.staging %s cannot be written: %s; each epoch reads what is not there yet from %s "
                "again. Make room there or lower data.staging_bytes before the next start",
                self._folder.folder,
                error,
                self._far.name(0),
            )

    def _open(self, entry: ShardEntry, alive: Callable[[], None]) -> int | None:
        """The copy of a shard, which is created if there is room for it."""
        path = self._folder.path_of(entry, KEPT)
        try:
            file = open_copy(path, os.O_RDWR)
            if file is None and self._begun(path, entry, alive):
                file = open_copy(path, os.O_RDWR)
        except OSError as error:
            self._give_up(error)
            return None
        return file

    def _begun(self, path: Path, entry: ShardEntry, alive: Callable[[], None]) -> bool:
        with self._beginning_alone(alive):
            if self._broken or time.monotonic() < self._look_again:
                return False
            if self._folder.begin(path, _size(entry), self._spared, alive):
                return True
            self._look_again = time.monotonic() + _AGAIN_SECONDS
            return False

    @contextmanager
    def _beginning_alone(self, alive: Callable[[], None]) -> Iterator[None]:
        # The thread that has the lock reports by itself if it stalls.
        while not self._beginning.acquire(timeout=_POLL_SECONDS):
            alive()
        try:
            yield
        finally:
            self._beginning.release()

    def _spared(self, copy: Copy) -> bool:
        return copy.path in self._own or time.time_ns() - copy.used < IN_USE_SECONDS * 10**9


def _size(entry: ShardEntry) -> int:
    return entry.bytes + entry.images


def _has(file: int, entry: ShardEntry, image: int) -> bool:
    try:
        return os.pread(file, 1, entry.bytes + image) == b"\1"
    except OSError:  # a failing disk
        return False
