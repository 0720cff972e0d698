"""Which block sizes a call gets.

In this order: those forced on it (``forced``, for the tuner), those of the measured file in use
(``use_measured``, or else the file that MARIS_FAST_BLOCKS names, read once), those of the table in blocks.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from maris_fast.kernels.errors import UnsupportedError
from maris_fast.kernels.mutual_attention.blocks import Blocks, blocks, word_block
from maris_fast.kernels.mutual_attention.measured import Measured, read
from maris_fast.kernels.triton_here import INTERPRETER

VARIABLE = "MARIS_FAST_BLOCKS"


@dataclass
class _InUse:
    """What takes the place of the table, for the whole process: the backward runs in a thread of its own."""

    forced: Blocks | None = None
    measured: Measured | None = None
    asked: bool = False


_in_use = _InUse()


def use_measured(file: Path | None) -> None:
    """From here on, calls take the block sizes of ``file`` where it has them; None: the table's alone.

    Raises:
        ValueError: see ``read``.
    """
    _in_use.measured = None if file is None else read(file)
    _in_use.asked = True
    _table_of.cache_clear()


@contextmanager
def forced(sizes: Blocks) -> Iterator[None]:
    """Every call inside takes ``sizes``, in any thread; for the tuner, which makes one call at a time."""
    before, _in_use.forced = _in_use.forced, sizes
    try:
        yield
    finally:
        _in_use.forced = before


def blocks_of_call(architecture: int, element_bytes: int, L_t: int, C: int) -> Blocks:
    """The block sizes that a call with these inputs takes.

    Raises:
        ValueError: see ``read``, of the file that MARIS_FAST_BLOCKS names.
        UnsupportedError: the file in use was measured on another architecture.
    """
    if _in_use.forced is not None:
        return _in_use.forced
    if not _in_use.asked:
        named = os.environ.get(VARIABLE)
        use_measured(Path(named) if named else None)
    if _in_use.measured is None:
        return blocks(architecture, element_bytes, L_t, C)
    found = _table_of(architecture).get((element_bytes, word_block(L_t), C))
    return blocks(architecture, element_bytes, L_t, C) if found is None else found


@cache
def _table_of(architecture: int) -> dict[tuple[int, int, int], Blocks]:
    measured = _in_use.measured
    assert measured is not None
    if measured.architecture != architecture:
        raise UnsupportedError(
            f"the measured block sizes in use are of {_name(measured.architecture)} ({measured.device}), and "
            f"this is {_name(architecture)}; measure here with `maris-fast bench tune`, or unset {VARIABLE}"
        )
    return measured.table()


def _name(architecture: int) -> str:
    if architecture == INTERPRETER:
        return "Triton's interpreter"
    return f"compute capability {architecture // 10}.{architecture % 10}"
