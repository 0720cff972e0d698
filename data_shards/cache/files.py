"""Files that get their name only when all their bytes are on the disk."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from maris_fast.errors import InputError
from maris_fast.files import flush

PART = ".part"

_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK, errno.EINVAL)

log = logging.getLogger(__name__)


@contextmanager
def new_file(path: Path, *, wait: bool = False) -> Iterator[BinaryIO]:
    """A file to write that appears as ``path`` when the block ends, and not at all when it fails.

    Until then it is ``<path>.part``, locked, so that of two processes only one writes it; a kill releases
    the lock, and the next writer begins the file anew.

    Args:
        path: the final name; an older file there is replaced.
        wait: for another process that holds the lock.

    Raises:
        InputError: another process writes this file now, and ``wait`` is false.
    """
    part = part_of(path)
    with _locked(part, wait) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            part.rename(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    flush(path.parent)


def part_of(path: Path) -> Path:
    return path.with_name(path.name + PART)


def remove_left_parts(folder: Path) -> None:
    """Deletes what killed processes left half written; files that are being written stay."""
    for part in folder.glob(f"*{PART}"):
        try:
            with _locked(part, wait=False):
                part.unlink(missing_ok=True)
        except InputError:
            continue


@contextmanager
def _locked(part: Path, wait: bool) -> Iterator[BinaryIO]:
    """``part``, empty, and nobody else's until the block ends."""
    while True:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT, 0o644), "r+b") as file:
            _lock(file, part, wait)
            # Whoever held the lock before may have given the file its final name, or deleted it.
            if _same_file(file, part):
                file.truncate()
                yield file
                return


def _lock(file: BinaryIO, part: Path, wait: bool) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError as error:
        raise InputError(
            f"another process is writing {part.with_suffix('')}; wait for it, or end it, and run the command "
            "again. Processes that share the work each need a --rank of their own"
        ) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning("%s lies on a file system without locks: start no two processes of one rank", part)


def _same_file(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False
