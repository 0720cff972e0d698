"""Paths in annotation files: normalized to one spelling per file, refused if they leave their folder."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Hashable
from functools import lru_cache
from pathlib import Path, PurePosixPath, PureWindowsPath

from maris_fast.data_shards.importers.coco_images import cocos_own_file
from maris_fast.data_shards.importers.left_out import Fault
from maris_fast.data_shards.importers.sentences import label_fault

OUTSIDE = (
    "image paths that leave the image folder; write them relative to it, or name the folder with `images`"
)
"""Value of ``Fault.kind``."""

_COCO_NAMES = ("COCO_train2014_{:012d}.jpg", "COCO_val2014_{:012d}.jpg", "{:012d}.jpg")
_COCO_FOLDERS = ("", "train2017/", "val2017/", "train2014/", "val2014/")


def place_of(name: str, root: Path, where: str) -> str | Fault:
    """A path below ``root``, with forward slashes and without redundant parts.

    A backslash is a separator, as on Windows, unless a file of exactly that name exists.

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


def image_place(name: str, root: Path, where: str) -> str | Fault:
    """As ``place_of``; COCO's photographs are found by their names of 2014 and of 2017.

    If a file with one of COCO's names does not exist, the file of the same number is used, in the folder
    itself or in ``train2017``, ``val2017``, ``train2014`` and ``val2014`` below it.
    """
    place = place_of(name, root, where)
    number = cocos_own_file(place) if isinstance(place, str) else None
    if isinstance(place, Fault) or number is None or (root / place).exists():
        return place
    names = [form.format(number) for form in _COCO_NAMES]
    there = (
        f"{folder}{name}" for folder in _COCO_FOLDERS for name in names if (root / folder / name).exists()
    )
    return next(there, place)


def same_file(path: Path) -> Hashable | None:
    """A key that all names of one file share, through links and on case-insensitive disks; None: no file.

    The inode number alone is not enough: some network file systems give all files the same one.
    """
    try:
        found, real = path.stat(), os.path.realpath(path)
    except (OSError, ValueError):
        return None
    linked = found.st_nlink > 1 and found.st_ino != 0
    name = None if linked else _folded(real)
    return name, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def in_another_case(path: Path) -> str:
    """For a message on a missing file: the file whose name differs only in case or Unicode form, if any."""
    try:
        names = _names_in(path.parent, path.parent.stat().st_mtime_ns)
    except OSError:
        return ""
    other = names.get(_folded(path.name))
    return f"; there is {other}" if other else ""


@lru_cache(maxsize=8)
def _names_in(folder: Path, changed: int) -> dict[str, str]:
    """File names by their folded form; ``changed`` is the folder's mtime, which invalidates the cache."""
    return {_folded(name): name for name in os.listdir(folder)}


def _folded(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()
