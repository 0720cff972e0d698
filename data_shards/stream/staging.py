"""Shards behind a stream that cannot seek (a pipe, an object store), staged whole on a local disk.

A shard is streamed front to back, once, into the staging folder and read there by index, so batches are those
of a local cache. Ranks of one machine share the folder: each shard has one owner while it is fetched, and the
folder has one while room is made, which keeps all of them within the bound.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from webdataset.gopen import gopen

from maris_fast.data_shards.cache.index import most_bytes
from maris_fast.data_shards.cache.manifest import (
    MANIFEST,
    MOST_BYTES,
    ShardEntry,
    members_of,
    read_manifest,
)
from maris_fast.errors import ConfigError, InputError
from maris_fast.system.files import sha256_of
from maris_fast.system.locks import OccupiedError, owned_file, owned_folder

log = logging.getLogger(__name__)

_CHUNK = 2**20
_POLL_SECONDS = 0.05
# A name becomes part of a command line.
_NAME = re.compile(r"[\w.+-]+")


def fetch_head(template: str, staging: Path, split: str) -> Path:
    """A folder with the manifest and the split's indexes, through the same URLs as the shards.

    Raises:
        InputError: one of them cannot be fetched.
        ConfigError: ``staging`` cannot be written.
    """
    folder = staging / f"head-{hashlib.sha256(template.encode()).hexdigest()[:12]}"
    _make(folder)
    _fetch_small(template, MANIFEST, folder, MOST_BYTES)
    manifest = read_manifest(folder)
    members = len(members_of(manifest.feature_dtype))
    for entry in manifest.splits[split].shards if split in manifest.splits else ():
        path = folder / entry.index_name
        if not path.is_file() or sha256_of(path) != entry.index_sha256:
            most = most_bytes(entry.images, members, entry.expressions)
            _fetch_small(template, entry.index_name, folder, most)
    return folder


class StagedFiles:
    """Shards by a URL of each, kept in ``folder`` as long as there is room; those not read longest go first.

    Args:
        template: URL that webdataset opens, with ``{name}`` where the shard's name goes.
        entries: the split's shards.
        folder: on a local disk; may be shared by readers and ranks.
        most: bytes that all shards in it take together.

    Raises:
        ConfigError: ``most`` is less than one shard, or ``folder`` cannot be written.
    """

    def __init__(self, template: str, entries: Sequence[ShardEntry], folder: Path, most: int) -> None:
        self._template, self._entries, self._folder, self._most = template, entries, folder, most
        largest = max(entry.bytes for entry in entries)
        if largest > most:
            raise ConfigError(
                f"data.staging_bytes = {most:,} cannot hold a shard of {largest:,} bytes; set it to "
                f"{largest:,} or more, better to the whole cache's size"
            )
        total = sum(entry.bytes for entry in entries)
        if total > most:
            log.warning(
                "data.staging_bytes = %s holds %.0f%% of the split's %s bytes: as an epoch mixes all images, "
                "shards are streamed again and again; it is meant to hold them all",
                f"{most:,}",
                100 * most / total,
                f"{total:,}",
            )
        _make(folder)
        self._streams: set[_Source] = set()
        self._closing = threading.Lock()

    def name(self, shard: int) -> str:
        return _url(self._template, self._entries[shard].name)

    @contextmanager
    def opened(self, shard: int, alive: Callable[[], None]) -> Iterator[int]:
        # Opened for each read: a shard that went out of the folder must not stay on the disk.
        file = self._open(shard, alive)
        try:
            yield file
        finally:
            os.close(file)

    def close(self) -> None:
        """Ends the commands that still stream."""
        with self._closing:
            for stream in self._streams:
                stream.kill()

    def _open(self, shard: int, alive: Callable[[], None]) -> int:
        path = self._path(shard)
        if (file := _open_whole(path)) is not None:
            return file
        with owned_file(path, wait=True, pause=lambda: _wait_for(self._folder, alive)):
            if (file := _open_whole(path)) is not None:  # another thread or rank was quicker
                return file
            return self._fetch(shard, path, alive)

    def _path(self, shard: int) -> Path:
        # Under its index's hash: another cache's shard of the same name is another file.
        entry = self._entries[shard]
        return self._folder / f"{entry.index_sha256[:16]}-{entry.name}"

    def _fetch(self, shard: int, path: Path, alive: Callable[[], None]) -> int:
        partial = path.with_name(f".{path.name}.partial")
        self._make_room(partial, self._entries[shard].bytes, alive)
        try:
            file = os.open(partial, os.O_RDWR)
            try:
                self._stream_into(file, shard, alive)
                partial.rename(path)
            except BaseException:
                os.close(file)
                raise
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        return file

    def _stream_into(self, file: int, shard: int, alive: Callable[[], None]) -> None:
        entry, url, done = self._entries[shard], self.name(shard), 0
        stream = _Source(url)
        self._streams.add(stream)
        try:
            with closing(stream):
                while (chunk := stream.read(_CHUNK)) and done <= entry.bytes:
                    self._put(file, chunk, done)
                    done += len(chunk)
                    alive()
        finally:
            with self._closing:
                self._streams.discard(stream)
        if done != entry.bytes:
            what = "goes on beyond" if done > entry.bytes else f"ends after {done} of"
            raise InputError(
                f"shard {url} {what} the {entry.bytes} bytes that the manifest says; copy it there again, or "
                "write the cache again"
            )

    def _put(self, file: int, chunk: bytes, place: int) -> None:
        left = memoryview(chunk)
        try:
            while left:
                left = left[os.pwrite(file, left, place + len(chunk) - len(left)) :]
        except OSError as error:
            raise _not_staged(self._folder, error) from error

    def _make_room(self, partial: Path, size: int, alive: Callable[[], None]) -> None:
        """Makes ``partial`` at its final size, which reserves it, within the folder's bound."""
        while True:
            with owned_folder(self._folder, wait=True, pause=lambda: _wait_for(self._folder, alive)):
                used, shards, partials = self._inventory(partial)
                while used + size > self._most and shards:
                    _, oldest, bytes_of = shards.pop(0)
                    oldest.unlink(missing_ok=True)
                    used -= bytes_of
                for other in partials if used + size > self._most else ():
                    if _abandoned(other):
                        with suppress(FileNotFoundError):  # it is whole since, and its lock free for that
                            used -= other.stat().st_size
                            other.unlink()
                if used + size <= self._most:
                    with partial.open("wb") as file:
                        file.truncate(size)
                    return
            _wait_for(self._folder, alive)  # other ranks fetch; theirs may go as soon as they are whole

    def _inventory(self, mine: Path) -> tuple[int, list[tuple[int, Path, int]], list[Path]]:
        """Bytes in use; whole shards, the longest unread first; shards that are being fetched."""
        used, shards, partials = 0, [], []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                if path == mine or path.suffix not in (".tar", ".partial"):
                    continue
                about = path.stat()
                used += about.st_size
                if path.suffix == ".tar":
                    shards.append((about.st_mtime_ns, path, about.st_size))
                else:
                    partials.append(path)
        return used, sorted(shards), partials


def _url(template: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"the manifest names a shard {name!r}, which is no plain file name; it is not opened"
        )
    return template.replace("{name}", name)


class _Source:
    """A stream that webdataset opens; whatever its commands and clients raise is an InputError."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stream = self._asked(lambda: gopen(url, "rb", bufsize=_CHUNK))

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._asked(lambda: self._stream.read(size))
        return content

    def close(self) -> None:
        self._asked(self._stream.close)

    def kill(self) -> None:
        if hasattr(self._stream, "proc"):
            self._stream.proc.kill()

    def _asked(self, work: Callable[[], Any]) -> Any:
        try:
            return work()
        except Exception as error:
            raise InputError(
                f"{self._url} cannot be streamed: {type(error).__name__}: {error}; check data.shards"
            ) from error


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_staged(folder, error) from error


def _not_staged(folder: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"data.staging {folder} cannot be written: {error}; make room there, lower data.staging_bytes, or "
        "set data.staging to another folder"
    )


def _fetch_small(template: str, name: str, folder: Path, most: int) -> None:
    url = _url(template, name)
    with closing(_Source(url)) as stream:
        content = stream.read(most + 1)
    if not content:
        raise InputError(f"{url} is empty; check data.shards")
    if len(content) > most:
        raise InputError(f"{url} has more than {most:,} bytes, so that it is no {name}; check data.shards")
    partial = folder / f".{name}.{os.getpid()}.{threading.get_ident()}.partial"
    try:
        partial.write_bytes(content)
        partial.rename(folder / name)
    except OSError as error:
        raise _not_staged(folder, error) from error
    finally:
        partial.unlink(missing_ok=True)


def _open_whole(path: Path) -> int | None:
    try:
        file = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return None
    os.utime(file)  # for the order of going
    return file


def _wait_for(folder: Path, alive: Callable[[], None]) -> None:
    """A moment; it counts as life if meanwhile anything that others fetch grew."""
    before = _latest(folder)
    time.sleep(_POLL_SECONDS)
    if _latest(folder) != before:
        alive()


def _latest(folder: Path) -> int:
    latest = 0
    for partial in folder.glob(".*.partial"):
        with suppress(FileNotFoundError):
            latest = max(latest, partial.stat().st_mtime_ns)
    return latest


def _abandoned(partial: Path) -> bool:
    """Whether nobody fetches it any more: a process that was killed left it."""
    shard = partial.with_name(partial.name.removesuffix(".partial")[1:])
    try:
        with owned_file(shard):
            return True
    except OccupiedError:
        return False
