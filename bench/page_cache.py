"""Drop files from the system's page cache, and find out how much of them is still in it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np


def drop(files: Iterable[Path]) -> None:
    """Ask the system to drop the files' pages; pages that a process has mapped stay."""
    for path in files:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(files: Iterable[Path]) -> float:
    """The share of the files' pages that is in memory, by mincore.

    Raises:
        OSError: mincore failed.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    inside = total = 0
    for path in files:
        size = path.stat().st_size
        if not size:
            continue
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as pages:
            start = np.frombuffer(pages, np.uint8).ctypes.data
            found = np.zeros(-(-size // mmap.PAGESIZE), np.uint8)
            state = found.ctypes.data_as(ctypes.c_void_p)
            if libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), state):
                raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
            inside += int((found & 1).sum())
            total += len(found)
    return inside / max(total, 1)
