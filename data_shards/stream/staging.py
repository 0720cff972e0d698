"""Shards from a stream that cannot seek (a pipe), staged completely on a local disk.

A shard is streamed front to back, once, into the staging folder and read there by index, so batches are the
same as those of a local cache.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
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
from maris_fast.data_shards.stream.open_shards import Read, Span, reader_of
from maris_fast.data_shards.stream.staging_folder import (
    StagingFolder,
    make,
    not_staged,
    open_copy,
    partial_of,
    write_at,
)
from maris_fast.errors import ConfigError, InputError
from maris_fast.system.files import sha256_of
from maris_fast.system.locks import owned_file

log = logging.getLogger(__name__)

_CHUNK = 2**20
# A name becomes part of a command line.
_NAME = re.compile(r"[\w.+-]+")


def fetch_head(template: str, staging: Path, split: str) -> Path:
    """A folder with the manifest and the split's indexes, fetched by the same URL template as the shards.

    Raises:
        InputError: one of them cannot be fetched.
        ConfigError: ``staging`` cannot be written.
    """
    folder = staging / f"head-{hashlib.sha256(template.encode()).hexdigest()[:12]}"
    make(folder)
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
    """Shards by URL, kept in ``folder`` while there is room; the least recently read are evicted first.

    Args:
        template: URL that webdataset opens, with ``{name}`` in place of the shard's name.
        entries: the split's shards.
        folder: on a local disk; may be shared by readers and ranks.
        most: bytes that all shards in it may take together.

    Raises:
        ConfigError: ``most`` is less than one shard, or ``folder`` cannot be written.
    """

    def __init__(self, template: str, entries: Sequence[ShardEntry], folder: Path, most: int) -> None:
        self._template, self._entries = template, entries
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
        self._staging = StagingFolder(folder, most)
        self._streams: set[_Source] = set()
        self._closing = threading.Lock()

    def name(self, shard: int) -> str:
        return _url(self._template, self._entries[shard].name)

    @contextmanager
    def opened(self, span: Span, alive: Callable[[], None]) -> Iterator[Read]:
        file = self._open(span.shard, alive)
        try:
            yield reader_of(file)
        finally:
            os.close(file)

    def forget(self, span: Span) -> bool:
        return False

    def close(self) -> None:
        """End the commands that are still streaming."""
        with self._closing:
            for stream in self._streams:
                stream.kill()

    def _open(self, shard: int, alive: Callable[[], None]) -> int:
        try:
            return self._copy_of(shard, alive)
        except OSError as error:  # from the folder, including its locks; the stream's are InputErrors
            raise not_staged(self._staging.folder, error) from error

    def _copy_of(self, shard: int, alive: Callable[[], None]) -> int:
        path = self._staging.path_of(self._entries[shard])
        if (file := open_copy(path)) is not None:
            return file
        with owned_file(path, wait=True, pause=lambda: self._staging.wait(alive)):
            if (file := open_copy(path)) is not None:  # another thread or rank was faster
                return file
            return self._fetch(shard, path, alive)

    def _fetch(self, shard: int, path: Path, alive: Callable[[], None]) -> int:
        partial = partial_of(path)
        self._staging.reserve(partial, self._entries[shard].bytes, alive)
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
            with stream:
                while (chunk := stream.read(_CHUNK)) and done <= entry.bytes:
                    write_at(file, memoryview(chunk), done)
                    done += len(chunk)
                    alive()
                if done > entry.bytes:
                    raise _unlike_manifest(url, entry, "goes on beyond")
        finally:
            with self._closing:
                self._streams.discard(stream)
        if done < entry.bytes:
            raise _unlike_manifest(url, entry, f"ends after {done} of")


def _unlike_manifest(url: str, entry: ShardEntry, what: str) -> InputError:
    return InputError(
        f"shard {url} {what} the {entry.bytes} bytes that the manifest says; copy it there again, or write "
        "the cache again"
    )


def _url(template: str, name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(
            f"the manifest names a shard {name!r}, which is not a plain file name; it is not opened"
        )
    return template.replace("{name}", name)


class _Source:
    """A stream that webdataset opens; any error of its commands and clients becomes an InputError.

    The end of its block closes it and checks the command's exit status. An error in the block ends the
    command, whose status is then ignored, as it may follow from the closed pipe.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._stream = self._asked(lambda: gopen(url, "rb", bufsize=_CHUNK))

    def read(self, size: int = -1) -> bytes:
        content: bytes = self._asked(lambda: self._stream.read(size))
        return content

    def __enter__(self) -> _Source:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._asked(self._stream.close)
            return
        self.kill()
        with suppress(Exception):
            self._stream.close()

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


def _fetch_small(template: str, name: str, folder: Path, most: int) -> None:
    url = _url(template, name)
    with _Source(url) as stream:
        content = stream.read(most + 1)
        if len(content) > most:
            raise InputError(f"{url} has more than {most:,} bytes, so it is not a {name}; check data.shards")
    if not content:
        raise InputError(f"{url} is empty; check data.shards")
    partial = folder / f".{name}.{os.getpid()}.{threading.get_ident()}.partial"
    try:
        partial.write_bytes(content)
        partial.rename(folder / name)
    except OSError as error:
        raise not_staged(folder, error) from error
    finally:
        partial.unlink(missing_ok=True)
