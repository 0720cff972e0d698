"""Paths in annotation files: one spelling for each file, and none that leads out of its folder."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath, PureWindowsPath

from maris_fast.data_shards.importers.left_out import Fault
from maris_fast.data_shards.importers.sentences import label_fault

OUTSIDE = (
    "image paths that leave the image folder; write them relative to it, or name the folder with --images"
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


def inode_of(path: Path) -> tuple[int, int] | None:
    """What two names of one file share, through links and on disks that ignore case; None: no file."""
    try:
        found = path.stat()
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino
