"""Files as bytes on a disk."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Puts a file or a folder's names on the disk: a rename survives a power cut only after this."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Another name to write to, which becomes ``path`` when the block ends.

    A reader sees the old file or the new one, whole. A block that fails leaves the old one, and no other.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
        raise


def replace_text(path: Path, parts: Iterable[str]) -> None:
    """Writes a file that is there whole or not at all; what stood there before stays until then.

    Raises:
        OSError: it cannot be written; nothing of it is left behind.
    """
    with replaced(path) as partial:
        with partial.open("w", encoding="utf-8") as file:
            file.writelines(parts)
        flush(partial)
