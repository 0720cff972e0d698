"""A local folder for copies of shards, which readers and ranks share and keep within a size limit.

A copy has one owner while it is fetched, and the folder has one while room is made.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from maris_fast.data_shards.cache.manifest import ShardEntry
from maris_fast.errors import ConfigError
from maris_fast.system.locks import SUFFIX, OccupiedError, owned_file, owned_folder, unknown_owner

KEPT = ".kept"
"""Suffix of a shard's file that has only some of its images."""
_PARTIAL = ".partial"
_COPY = re.compile(rf"[0-9a-f]{{16}}-.+(\.tar|{re.escape(KEPT)})")
"""Names of ``StagingFolder.path_of``; other files in the folder are the user's."""
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Copy:
    """A complete file in the folder; ``used``: when it was last read, in ns since 1970."""

    path: Path
    used: int
    bytes: int


class StagingFolder:
    """Files with copies of shards; other files in the folder are neither counted nor evicted.

    Args:
        folder: on a local disk.
        most: bytes that all copies in it may take together.

    Raises:
        ConfigError: it cannot be created.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        make(folder)

    def path_of(self, entry: ShardEntry, suffix: str = "") -> Path:
        # With its index's hash: another cache's shard of the same name is a different file.
        return self.folder / f"{entry.index_sha256[:16]}-{entry.name}{suffix}"

    def wait(self, alive: Callable[[], None]) -> None:
        """Sleep briefly; call ``alive`` if anything that others fetch grew meanwhile, or a lock may be stale.

        A stale lock is taken over after ``locks.LEASE`` seconds, which may be more than a reader may stall.
        """
        before = self._latest()
        time.sleep(_POLL_SECONDS)
        if self._latest() != before or any(map(unknown_owner, self.folder.glob(f"*{SUFFIX}"))):
            alive()

    def reserve(self, partial: Path, size: int, alive: Callable[[], None]) -> None:
        """Create ``partial`` at its final size, which reserves the space, as soon as there is room for it."""
        while True:
            with owned_folder(self.folder, wait=True, pause=lambda: self.wait(alive)):
                if self._freed(partial, size, lambda _: False, alive):
                    _make_zeros(partial, size)
                    return
            self.wait(alive)  # other ranks are fetching; their copies may be evicted once complete

    def begin(self, path: Path, size: int, spared: Callable[[Copy], bool], alive: Callable[[], None]) -> bool:
        """Create ``path`` with ``size`` zeros unless it exists; return whether it does now.

        Args:
            spared: copies that must not be evicted.

        Raises:
            OSError: the disk fails.
        """
        with owned_folder(self.folder, wait=True, pause=lambda: self.wait(alive)):
            if path.exists():
                return True
            partial = partial_of(path)
            if not self._freed(partial, size, spared, alive):
                return False
            _make_zeros(partial, size)
            partial.rename(path)
            return True

    def _freed(
        self, mine: Path, size: int, spared: Callable[[Copy], bool], alive: Callable[[], None]
    ) -> bool:
        """Make room for ``size`` bytes; return whether there is. No copy is evicted unless that suffices."""
        copies, partials = self._inventory(mine)
        used = sum(one.bytes for one in copies) + sum(partials.values())
        copies = [one for one in copies if not spared(one)]
        if used + size > self.most:
            for other in partials:
                if self._abandoned(other, alive):
                    with suppress(FileNotFoundError):  # completed meanwhile, which also released its lock
                        other.unlink()
                        used -= partials[other]
        if used + size - sum(one.bytes for one in copies) > self.most:
            return False
        while used + size > self.most:
            oldest = copies.pop(0)
            oldest.path.unlink(missing_ok=True)
            used -= oldest.bytes
        return True

    def _abandoned(self, partial: Path, alive: Callable[[], None]) -> bool:
        """Whether ``partial`` is no longer being fetched, because its process was killed."""
        try:
            with owned_file(_copy_of(partial), pause=lambda: self.wait(alive)):
                return True
        except OccupiedError:
            return False

    def _inventory(self, mine: Path) -> tuple[list[Copy], dict[Path, int]]:
        """Complete copies, least recently read first, and sizes of those that are being fetched."""
        copies, partials = [], {}
        for path in self.folder.iterdir():
            with suppress(FileNotFoundError):
                fetched = _is_partial(path)
                name = _copy_of(path).name if fetched else path.name
                if path == mine or not _COPY.fullmatch(name):
                    continue
                about = path.stat()
                if fetched:
                    partials[path] = about.st_size
                else:
                    copies.append(Copy(path, about.st_mtime_ns, about.st_size))
        return sorted(copies, key=lambda one: one.used), partials

    def _latest(self) -> int:
        latest = 0
        for partial in self.folder.glob(f".*{_PARTIAL}"):
            with suppress(FileNotFoundError):
                latest = max(latest, partial.stat().st_mtime_ns)
        return latest


def partial_of(path: Path) -> Path:
    return path.with_name(f".{path.name}{_PARTIAL}")


def _is_partial(path: Path) -> bool:
    return path.name.startswith(".") and path.suffix == _PARTIAL


def _copy_of(partial: Path) -> Path:
    return partial.with_name(partial.name.removesuffix(_PARTIAL)[1:])


def open_copy(path: Path, flags: int = os.O_RDONLY) -> int | None:
    """Open a copy and mark it as read; None if there is none.

    Opened for each read: an evicted copy must not stay on the disk.
    """
    try:
        file = os.open(path, flags)
    except FileNotFoundError:
        return None
    os.utime(file)
    return file


def make(folder: Path) -> None:
    """Create the folder; raises ConfigError if ``data.staging`` cannot be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise not_staged(folder, error) from error


def not_staged(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"data.staging {folder} cannot be written: {error}; make room there, lower data.staging_bytes, or "
        "set data.staging to another folder"
    )


def write_at(file: int, content: memoryview, place: int) -> None:
    """Write all of ``content`` at ``place``; raises OSError."""
    while content:
        count = os.pwrite(file, content, place)
        content, place = content[count:], place + count


def _make_zeros(path: Path, size: int) -> None:
    with path.open("wb") as file:
        file.truncate(size)
