"""Masks as Label Studio's brushes: run lengths of RGBA bytes, bit-packed as by @thi.ng/rle-pack.

The header is the number of values (32 bits), the bits per value less 1 (5 bits), and for four kinds of length
the bits per length less 1 (4 bits each). A run is a 1, the kind (2 bits), the length less 1, and the value.
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
    """The bytes of a mask [H, W]."""
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
    """The kind of a length, and the length (at least 1) minus 1 in the fewest bits."""
    kind = next(kind for kind, bits in enumerate(LENGTH_BITS) if length <= 1 << bits)
    return f"{kind:02b}{length - 1:0{LENGTH_BITS[kind]}b}"
