"""Helpers to read, sync and atomically replace files."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from maris_fast.errors import InputError

FULL = (errno.ENOSPC, errno.EDQUOT)
"""``errno`` values of a full disk or an exhausted quota."""


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_at_most(path: Path, most: int) -> bytes:
    """The bytes of a file that must have at most ``most`` of them.

    Raises:
        InputError: the file is larger.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InputError(f"{path} has more than {most:,} bytes, so it is not what its name says")
    return content


def plain_name(name: str) -> str:
    """``name``, checked to be a plain file name that cannot lead out of its folder.

    Raises:
        ValueError: it is not.
    """
    if name in ("", ".", "..") or any(one in name for one in "/\\\0"):
        raise ValueError(f"{name!r} is not a plain file name; nothing outside the folder is opened")
    return name


def flush(path: Path) -> None:
    """Sync a file, or the entries of a folder, to disk: a rename survives a power cut only after this."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def writing(place: Path, option: str | None = None) -> Iterator[None]:
    """Replace an OSError of the block by a one-line error that says why something cannot be written.

    Args:
        place: file or folder that is written.
        option: that sets ``place``: ``--out`` of a command, "`out`" of a function; None if callers differ.

    Raises:
        InputError: in place of the OSError.
    """
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        todo = f"name another place{f' with {option}' if option else ''}"
        if error.errno in FULL:
            todo = f"make room there or {todo}"
        raise InputError(f"{place} cannot be written: {reason}; {todo}") from error


def require_place(file: Path, option: str) -> None:
    """Check, before long work, that ``file`` can be written later.

    Args:
        option: that sets ``file``: ``--out`` of a command, "`out`" of a function.

    Raises:
        InputError: its folder does not exist, or ``file`` is itself a folder.
    """
    if not file.parent.is_dir() or file.is_dir():
        what = "is a folder" if file.is_dir() else f"needs the folder {file.parent}, which is not there"
        raise InputError(f"{option} {file} {what}; name a file in an existing folder")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path to write to, which is renamed to ``path`` when the block ends.

    Readers see the old or the complete new file. A block that fails leaves the old one and no temporary.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path  # a pipe or a device such as /dev/stdout is written to, not replaced
        return
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def replace_text(path: Path, parts: Iterable[str]) -> None:
    """Write a text file atomically; an older file stays until the new one is complete.

    Raises:
        OSError: it cannot be written; no partial file is left behind.
    """
    with replaced(path) as partial:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(parts)
        if partial != path:
            flush(partial)
