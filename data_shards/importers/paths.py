"""Paths in annotation files: one spelling for each file, and none that leads out of its folder."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from maris_fast.data_shards.importers.left_out import Fault
from maris_fast.data_shards.importers.sentences import label_fault

OUTSIDE = (
    "image paths that leave the image folder; write them relative to it, or name the folder with `images`"
)
"""Kind of fault."""


def place_of(name: str, root: Path, where: str) -> str | Fault:
    """A path below ``root``, with slashes and without parts that change nothing.

    A backslash divides a path as it does on Windows, unless a file of that very name is there.

    Args:
        where: file and ids, for the fault.
    """
    if fault := label_fault(name, where):
        return fault
    as_named = "\\" not in name or os.path.lexists(root / name)
    place = PurePosixPath(name if as_named else name.replace("\\", "/"))
    if place.is_absolute() or PureWindowsPath(name).drive or ".." in place.parts:
        return Fault(OUTSIDE, f"{where}: {name}")
    return str(place)


def same_file(path: Path) -> Hashable | None:
    """What two names of one file share, through links and on disks that ignore case; None: no file.

    An inode's number alone is not believed: some network file systems give all files the same.
    """
    try:
        found, real = path.stat(), os.path.realpath(path)
    except (OSError, ValueError):
        return None
    linked = found.st_nlink > 1 and found.st_ino != 0
    name = None if linked else _folded(real)
    return name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def in_another_case(path: Path) -> str:
    """For a message on a missing file: that of the same letters, if there is one."""
    try:
        names = _names_in(path.parent, path.parent.stat().st_mtime_ns)
    except OSError:
        return ""
    other = names.get(_folded(path.name))
    return f"; there is {other}" if other else ""


@lru_cache(maxsize=8)
def _names_in(folder: Path, changed: int) -> dict[str, str]:
    """By their letters; ``changed``: when, so that it is not remembered for longer."""
    return {_folded(name): name for name in os.listdir(folder)}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
