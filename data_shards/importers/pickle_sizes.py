"""Sizes that a pickle states, compared with its file before the unpickler reserves memory for them."""

from __future__ import annotations

import pickletools

_SIZES = {ord(op.code): 0 if op.arg is None else op.arg.n for op in pickletools.opcodes}
"""Bytes of each opcode's argument; below 0: as ``_COUNTED`` says, or up to a new line."""
_COUNTED = {
    pickletools.TAKEN_FROM_ARGUMENT1: 1,
    pickletools.TAKEN_FROM_ARGUMENT4: 4,
    pickletools.TAKEN_FROM_ARGUMENT4U: 4,
    pickletools.TAKEN_FROM_ARGUMENT8U: 8,
}
"""Bytes of the count in front of an argument."""
_PUT, _LONG_PUT, _FRAME, _STOP = b"pr\x95."
_TWO_LINES = b"ci"


def require_sizes_within(content: bytes) -> None:
    """Every count is of bytes that are there, and every place in the memo one that they could have filled.

    What is wrong in another way is left to the unpickler.

    Raises:
        ValueError: a size beyond the file's.
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
                # A place in the memo is one of an opcode before; a frame holds bytes behind it.
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
