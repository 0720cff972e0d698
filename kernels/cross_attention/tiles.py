"""Tile sizes of the kernels: queries per tile, by architecture, element size and block of keys.

Chosen from what the compiler reports (tests/kernels/test_cross_attention_compiles.py); none has been timed.
"""

from __future__ import annotations

from typing import NamedTuple

from maris_fast.kernels.triton_here import INTERPRETER

KEY_BLOCKS = (16, 32, 64)
MIN_C, MAX_C = 16, 256
# Of both kernels, by a call and ahead of time.
WARPS, STAGES = 8, 1


class Tile(NamedTuple):
    """Queries per program, forward and backward."""

    forward: int
    backward: int


INTERPRETED = dict.fromkeys(KEY_BLOCKS, Tile(64, 64))
# Whole rows of queries, results and gradients are in registers, which fit two bytes per element, not four.
GPU = {16: Tile(64, 64), 32: Tile(64, 32), 64: Tile(64, 32)}
TABLE: dict[tuple[int, int], dict[int, Tile]] = {
    (INTERPRETER, 2): INTERPRETED,
    (INTERPRETER, 4): INTERPRETED,
    (80, 2): GPU,
    (90, 2): GPU,
    (100, 2): {**GPU, 64: Tile(32, 32)},
    (120, 2): GPU,
}


def why_unfit(L_k: int, C: int) -> str | None:
    """Why the kernels don't take inputs of these sizes; None when they do."""
    if L_k > KEY_BLOCKS[-1]:
        return f"{L_k} keys, and the Triton kernels take at most {KEY_BLOCKS[-1]}"
    if not MIN_C <= C <= MAX_C:
        return f"C = {C} channels, and the Triton kernels take {MIN_C} to {MAX_C}"
    return None


def key_block(L_k: int) -> int:
    """The smallest block that holds L_k keys: a softmax needs all of its keys in one."""
    return next(block for block in KEY_BLOCKS if block >= L_k)


def tile(architecture: int, element_bytes: int, L_k: int) -> Tile:
    """The table's tile for a call; an architecture without rows takes that of the next lower one."""
    known = max(known for known, _ in TABLE if known <= architecture)
    return TABLE[known, element_bytes][key_block(L_k)]
