"""How the kernels are cut: block sizes by architecture, element size, word block and channels.

Chosen from what the compiler reports: every row fits in registers and shared memory of its architecture
(tests/kernels/test_mutual_attention_compiles.py compiles them all). None has been timed on a GPU yet: other
cuts are candidates (candidates.py) beside the table's, each proven and timed on the machine at hand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from maris_fast.kernels.triton_here import INTERPRETER

WORD_BLOCKS = (16, 32, 64, 128)


@dataclass(frozen=True)
class Walk:
    """One walk over the visual tokens: rows a tile, warps, stages of prefetch, channels a chunk, programs.

    A forward without chunks holds all of C in registers. ``programs`` is into how many the walk is split,
    about; in the table it is left to PROGRAMS.
    """

    rows: int
    warps: int
    stages: int
    chunk: int = 0
    programs: int = 0

    def __str__(self) -> str:
        return f"{self.rows}/{self.warps}/{self.stages}/{self.chunk}/{self.programs}"

    @classmethod
    def read(cls, written: str) -> Walk:
        """The walk that ``str`` wrote.

        Raises:
            ValueError: anything else.
        """
        found = re.fullmatch(r"(\d+)/(\d+)/(\d+)/(\d+)/(\d+)", written)
        if found is None:
            raise ValueError(f"{written!r} is no walk; needed is rows/warps/stages/chunk/programs")
        return cls(*map(int, found.groups()))


@dataclass(frozen=True)
class Blocks:
    """Block sizes of one call. Its two walks need not agree: the backward reads the gate, it makes none."""

    words: int
    forward: Walk
    backward: Walk


@dataclass(frozen=True)
class Row:
    """The walks of one word block; ``wide`` is the forward beyond WHOLE_C channels."""

    forward: Walk
    wide: Walk
    backward: Walk


WHOLE_C = 256
MIN_C, MAX_C = 16, 1024

# Few, large tiles are what costs the interpreter least; several tiles a program, so that sums over them run.
INTERPRETED = Row(Walk(32, 4, 1), Walk(32, 4, 1, 64), Walk(64, 4, 1, 64))
# fp32 has no tensor cores to use: its products are IEEE, and its rows take twice the registers.
FP32 = {
    16: Row(Walk(32, 8, 2, 32), Walk(32, 8, 2, 32), Walk(32, 8, 1, 32)),
    32: Row(Walk(32, 8, 2, 32), Walk(32, 8, 2, 32), Walk(32, 8, 1, 32)),
    64: Row(Walk(32, 8, 2, 32), Walk(32, 8, 2, 32), Walk(16, 8, 1, 32)),
    128: Row(Walk(16, 8, 1, 32), Walk(16, 8, 1, 32), Walk(16, 8, 1, 16)),
}

# {(architecture, element bytes): {word block: row}}
TABLE: dict[tuple[int, int], dict[int, Row]] = {
    (INTERPRETER, 2): dict.fromkeys(WORD_BLOCKS, INTERPRETED),
    (INTERPRETER, 4): dict.fromkeys(WORD_BLOCKS, INTERPRETED),
    (80, 2): {
        16: Row(Walk(32, 8, 2), Walk(32, 4, 2, 64), Walk(32, 8, 2, 64)),
        32: Row(Walk(32, 8, 2), Walk(32, 4, 2, 64), Walk(32, 8, 2, 32)),
        64: Row(Walk(32, 8, 2), Walk(32, 8, 2, 64), Walk(16, 8, 2, 64)),
        128: Row(Walk(16, 8, 2), Walk(32, 8, 2, 64), Walk(16, 8, 1, 32)),
    },
    (80, 4): FP32,
    (90, 2): {
        16: Row(Walk(16, 4, 2), Walk(64, 4, 2, 64), Walk(64, 4, 2, 64)),
        32: Row(Walk(32, 8, 3), Walk(64, 4, 2, 64), Walk(64, 4, 2, 64)),
        64: Row(Walk(32, 8, 2), Walk(32, 8, 2, 64), Walk(32, 8, 1, 64)),
        128: Row(Walk(32, 8, 2), Walk(32, 8, 2, 64), Walk(16, 8, 2, 64)),
    },
    (90, 4): FP32,
}
# Two programs a multiprocessor: 108 on an A100, 132 on an H100.
PROGRAMS = {INTERPRETER: 4, 80: 216, 90: 264}


def why_unfit(L_t: int, C: int) -> str | None:
    """Why the kernels don't take inputs of these sizes; None when they do."""
    if L_t > WORD_BLOCKS[-1]:
        return f"L_t = {L_t} words, and the Triton kernels take at most {WORD_BLOCKS[-1]}"
    if not MIN_C <= C <= MAX_C:
        return f"C = {C} channels, and the Triton kernels take {MIN_C} to {MAX_C}"
    return None


def smallest_block(L_t: int) -> int | None:
    """The smallest block that holds L_t words, None where none does: a softmax needs all words in one."""
    for block in WORD_BLOCKS:
        if L_t <= block:
            return block
    return None


def word_block(L_t: int) -> int:
    """The same of words that fit."""
    block = smallest_block(L_t)
    assert block is not None
    return block


def blocks(architecture: int, element_bytes: int, L_t: int, C: int) -> Blocks:
    """The table's block sizes for a call; an architecture without rows takes those of the one before."""
    known = max(known for known in PROGRAMS if known <= architecture)
    words = word_block(L_t)
    row = TABLE[known, element_bytes][words]
    # With a single chunk the compiler melts both walks together, and spills.
    chunk = min(row.backward.chunk, max(16, 1 << ((C - 1).bit_length() - 1)))
    forward = replace(row.forward if C <= WHOLE_C else row.wide, programs=PROGRAMS[known])
    backward = replace(row.backward, chunk=chunk, programs=PROGRAMS[known])
    return Blocks(words, forward, backward)


def cut_otherwise(own: Blocks, cut: str) -> Blocks:
    """The blocks of a call with the walks of ``cut``: the forward's, and after a + the backward's.

    Raises:
        ValueError: ``cut`` is no two walks.
    """
    forward, _, backward = cut.partition("+")
    return replace(own, forward=Walk.read(forward), backward=Walk.read(backward))
