"""How the kernels are cut: block sizes by architecture, element size, word block and channels.

Chosen from what the compiler reports: every row fits in registers and shared memory of its architecture
(tests/kernels/test_compile.py compiles them all). None has been timed on a GPU yet.
"""

from __future__ import annotations

from dataclasses import dataclass

WORD_BLOCKS = (16, 32, 64, 128)
ARCHITECTURES = (80, 90)
# Few, large tiles are what costs the interpreter least; several tiles a program, so that sums over them run.
INTERPRETER = 0


@dataclass(frozen=True)
class Walk:
    """One walk over the visual tokens: rows a tile, warps, stages of prefetch, channels a chunk."""

    rows: int
    warps: int
    stages: int
    chunk: int = 0


@dataclass(frozen=True)
class Blocks:
    """Block sizes of one call; ``programs`` is how many programs a walk is split into, about."""

    words: int
    forward: Walk
    backward: Walk
    programs: int


# {(architecture, element bytes): {word block: (forward, backward)}}
TABLE: dict[tuple[int, int], dict[int, tuple[Walk, Walk]]] = {
    (INTERPRETER, 2): {words: (Walk(32, 4, 1), Walk(64, 4, 1, 64)) for words in WORD_BLOCKS},
    (INTERPRETER, 4): {words: (Walk(32, 4, 1, 64), Walk(64, 4, 1, 64)) for words in WORD_BLOCKS},
    (90, 2): {
        16: (Walk(16, 4, 2), Walk(64, 4, 1, 64)),
        32: (Walk(32, 8, 2), Walk(64, 4, 1, 64)),
        64: (Walk(32, 8, 2), Walk(32, 8, 1, 64)),
        128: (Walk(32, 8, 2), Walk(16, 8, 1, 64)),
    },
    (90, 4): {
        16: (Walk(16, 8, 1), Walk(16, 8, 1, 32)),
        32: (Walk(16, 8, 1), Walk(16, 8, 1, 32)),
        64: (Walk(16, 8, 1), Walk(16, 8, 1, 32)),
        128: (Walk(16, 8, 1), Walk(16, 8, 1, 32)),
    },
}
# Two programs a multiprocessor: 132 on an H100, 108 on an A100.
PROGRAMS = {INTERPRETER: 4, 80: 216, 90: 264}

MIN_CHANNELS, MAX_CHANNELS = 16, 512


def why_unfit(element_bytes: int, L_t: int, C: int) -> str | None:
    """Why the kernels don't take inputs of these sizes; None when they do."""
    if L_t > WORD_BLOCKS[-1]:
        return f"L_t = {L_t} words, and the Triton kernels take at most {WORD_BLOCKS[-1]}"
    if not MIN_CHANNELS <= C <= MAX_CHANNELS:
        return f"C = {C} channels, and the Triton kernels take {MIN_CHANNELS} to {MAX_CHANNELS}"
    return None


def blocks(architecture: int, element_bytes: int, L_t: int, C: int) -> Blocks:
    """The block sizes for these inputs; an architecture without rows takes those of the one before."""
    row = max(known for known in PROGRAMS if known <= architecture)
    # A softmax needs all of its words in one block.
    words = next(block for block in WORD_BLOCKS if block >= L_t)
    forward, backward = TABLE[row, element_bytes][words]
    return Blocks(words, forward, backward, PROGRAMS[row])
