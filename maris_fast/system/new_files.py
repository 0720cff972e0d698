"""Files that get their final name only when all their bytes are on disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from maris_fast.errors import InputError
from maris_fast.system.files import flush
from maris_fast.system.locks import SUFFIX, Held, OccupiedError, owned_file

PART = ".part"


@contextmanager
def new_file(path: Path, *, wait: bool = False) -> Iterator[BinaryIO]:
    """A file to write, which appears as ``path`` when the block ends, and not at all if it fails.

    Until then it is ``<path>.part``, which only one process at a time writes; the next process starts over
    if one was killed.

    Args:
        path: the final name; an older file there is replaced.
        wait: whether to wait for another process that is writing it.

    Raises:
        InputError: another process is writing this file, and ``wait`` is false.
    """
    with _alone(path, wait=wait) as held:
        part = part_of(path)
        with suppress(FileNotFoundError):
            os.unlink(part)  # a stalled process that left it must not write into ours later
        try:
            with part.open("x+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            held.confirm()
            part.rename(path)
        except OccupiedError:
            raise  # another process owns the part now
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    flush(path.parent)


def part_of(path: Path) -> Path:
    return path.with_name(path.name + PART)


def remove_left_parts(folder: Path) -> None:
    """Delete the partial files of killed processes; files that are being written stay."""
    parts = {path.with_suffix("") for path in folder.glob(f"*{PART}")}
    locks = {path.with_name(path.name.removesuffix(SUFFIX)[1:]) for path in folder.glob(f".?*{SUFFIX}")}
    for path in parts | locks:
        with suppress(InputError), _alone(path, wait=False):
            part_of(path).unlink(missing_ok=True)


@contextmanager
def _alone(path: Path, *, wait: bool) -> Iterator[Held]:
    try:
        with owned_file(path, wait=wait) as held:
            yield held
    except OccupiedError as error:
        raise InputError(
            f"another process is writing {path}; it is {error.who}. Wait for it, or end it, and run the "
            f"command again; {error.by_hand}. Processes that share the work each need a `rank` of their own"
        ) from error
