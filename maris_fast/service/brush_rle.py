"""Masks as Label Studio's brushes: run lengths of RGBA bytes, packed into bits as @thi.ng/rle-pack does.

32 bits say how many values there are, 5 how many bits a value has less one, four times 4 how many bits a
length has less one; then, for each run, 1, two bits for the kind of length, the length less one, the value.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CHANNELS = 4
"""Bytes of a pixel: all four are 255 inside, and 0 outside."""
VALUE_BITS = 8
LENGTH_BITS = (3, 4, 8, 16)
LONGEST = 1 << LENGTH_BITS[-1]


def brush_rle(mask: NDArray[np.bool_]) -> list[int]:
    """Of [H, W]; a list of bytes."""
    flat = mask.reshape(-1)
    ends = np.append(np.flatnonzero(flat[1:] != flat[:-1]) + 1, flat.size)
    lengths = np.diff(ends, prepend=0) * CHANNELS
    bits = [
        f"{flat.size * CHANNELS:032b}",
        f"{VALUE_BITS - 1:05b}",
        *(f"{one - 1:04b}" for one in LENGTH_BITS),
    ]
    for end, length in zip(ends.tolist(), lengths.tolist(), strict=True):
        value = "1" * VALUE_BITS if flat[end - 1] else "0" * VALUE_BITS
        bits += [f"1{_packed(LONGEST)}{value}"] * ((length - 1) // LONGEST)
        bits.append(f"1{_packed((length - 1) % LONGEST + 1)}{value}")
    text = "".join(bits)
    text += "0" * (-len(text) % 8)
    return list(int(text, 2).to_bytes(len(text) // 8))


def _packed(length: int) -> str:
    """A length from 1 in the fewest bits, after the kind of it."""
    kind = next(kind for kind, bits in enumerate(LENGTH_BITS) if length <= 1 << bits)
    return f"{kind:02b}{length - 1:0{LENGTH_BITS[kind]}b}"
