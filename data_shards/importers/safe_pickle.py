"""Pickles as data: dict, list, tuple, set, text, bytes, numbers, bool and None, and nothing else."""

from __future__ import annotations

import codecs
import io
import pickle
import pickletools
from pathlib import Path
from typing import NoReturn

from maris_fast.errors import InputError

# Python 2 wrote text as bytes without an encoding: UTF-8, except for stray bytes.
_LATIN1_FOR_STRAY_BYTES = "maris_fast.latin1_for_stray_bytes"
_SIZES = {ord(op.code): 0 if op.arg is None else op.arg.n for op in pickletools.opcodes}
"""Size in bytes of each opcode's argument; negative: see ``_COUNTED``, or up to a newline."""
_COUNTED = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
"""Size in bytes of the count that precedes an argument."""
_PUT, _LONG_PUT, _FRAME, _STOP = b"pr\x95."
_TWO_LINES = b"ci"


def _as_latin1(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return error.object[error.start : error.end].decode("latin1"), error.end


codecs.register_error(_LATIN1_FOR_STRAY_BYTES, _as_latin1)


def load_plain_pickle(path: Path) -> object:
    """The content of a file that is a pickle; see ``plain_pickle``.

    Raises:
        InputError: no such file, not a whole pickle, or one that names a global.
    """
    try:
        return plain_pickle(Path(path).read_bytes(), str(path))
    except FileNotFoundError as error:
        raise InputError(f"no file {path}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not a whole pickle: {error}") from error


def plain_pickle(content: bytes, where: str) -> object:
    """The content of a pickle of any protocol; Python 2's ``str`` becomes text.

    A pickle can only run code through a global that it names, so every global is refused before it is
    looked up. Stated sizes are checked against the content before memory is allocated for them.

    Args:
        where: the file, and the place in it, for the message.

    Raises:
        InputError: it names a global.
        ValueError: not a whole pickle.
    """
    try:
        _require_sizes_within(content)
        return _PlainUnpickler(io.BytesIO(content), where).load()
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can make the unpickler raise nearly anything
        raise ValueError(f"{type(error).__name__}: {error}") from error


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: object, where: str) -> None:
        super().__init__(file, encoding="utf-8", errors=_LATIN1_FOR_STRAY_BYTES)  # type: ignore[arg-type]
        self._where = where

    def find_class(self, module: str, name: str) -> NoReturn:
        raise InputError(
            f"{self._where} names {module}.{name}: it tries to run code or to build objects, but only plain "
            "containers, text and numbers are read from a pickle. Nothing was executed; "
            "get the file from its authors again"
        )


def _require_sizes_within(content: bytes) -> None:
    """Check that every stated size lies within the content, and that every memo index is plausible.

    Other errors are left to the unpickler.

    Raises:
        ValueError: a size is beyond the file's.
    """
    at, end = 0, len(content)
    while at < end:
        code = content[at]
        at += 1
        size = _SIZES.get(code)
        if size is None:
            return
        if size >= 0:
            if code in (_LONG_PUT, _FRAME):
                # A memo index is bounded by the bytes read so far; a frame holds the bytes after it.
                room = at if code == _LONG_PUT else end - at - size
                _require(int.from_bytes(content[at : at + size], "little"), room)
            elif code == _STOP:
                return
            at += size
        elif size in _COUNTED:
            before = at + _COUNTED[size]
            count = int.from_bytes(content[at:before], "little")
            _require(count, end - before)
            at = before + count
        else:
            start = at
            for _ in range(2 if code in _TWO_LINES else 1):
                at = content.find(b"\n", at) + 1 or end
            if code == _PUT and content[start : at - 1].strip().isdigit():
                _require(int(content[start : at - 1]), start)


def _require(stated: int, room: int) -> None:
    if stated > room:
        raise ValueError(f"it states a size of {stated:,} where {room:,} bytes are")
