"""Files of a cache, in a folder or below an address."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from maris_fast.config import StoreAddress, cache_place
from maris_fast.errors import ConfigError
from maris_fast.system.object_store import ObjectStore, StoreError

PATIENCE = 30.0
"""Default seconds for a request, where no setting gives them."""

Files = Path | ObjectStore


def files_of(
    place: str | os.PathLike[str] | StoreAddress | ObjectStore,
    patience: float = PATIENCE,
    *,
    configured: bool = False,
) -> Files:
    """Access to the files of a folder, or of an address as ``ObjectStore(place, patience, configured)``.

    Raises:
        ArgumentError: addresses of this kind are not supported.
        ConfigError: obstore, which reads addresses, is not installed.
    """
    if isinstance(place, ObjectStore):
        return place
    place = cache_place(place)
    return place if isinstance(place, Path) else ObjectStore(place, patience, configured=configured)


def read_start(files: Files, name: str, count: int) -> bytes:
    """The first ``count`` bytes of a file, or all if it has fewer.

    Raises:
        FileNotFoundError: there is none.
        OSError: the disk fails.
        StoreError: the server fails.
    """
    if isinstance(files, Path):
        with (files / name).open("rb") as file:
            return file.read(count)
    with _missing():
        return b"".join(files.stream(name, 0, count))


def size_of(files: Files, name: str) -> int:
    """Size of a file in bytes; raises as ``read_start``."""
    if isinstance(files, Path):
        return (files / name).stat().st_size
    with _missing():
        return files.size(name)


@contextmanager
def opened(files: Files, name: str, size: int) -> Iterator[BinaryIO]:
    """A file to read in any order; at an address, its first ``size`` bytes in an unnamed temporary file.

    Raises as ``read_start``, and:
        ConfigError: the temporary folder cannot hold them.
    """
    if isinstance(files, Path):
        with (files / name).open("rb") as file:
            yield file
        return
    with _missing(), _temporary_folder(), tempfile.TemporaryFile() as copy:
        for chunk in files.stream(name, 0, size):
            copy.write(chunk)
        copy.seek(0)
        yield copy


@contextmanager
def _temporary_folder() -> Iterator[None]:
    try:
        yield
    except OSError as error:  # not of a server, which raises StoreError
        raise ConfigError(
            f"the temporary folder {tempfile.tempdir or ''} cannot hold copies of shards: {error}; make "
            "room there, set TMPDIR to another folder, or lower `jobs`"
        ) from error


@contextmanager
def _missing() -> Iterator[None]:
    try:
        yield
    except StoreError as error:
        if error.status == 404:
            raise FileNotFoundError(str(error)) from error
        raise
