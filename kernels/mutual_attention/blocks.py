"""How the kernels are cut: block sizes by architecture, element size, word block and channels."""

from __future__ import annotations

from dataclasses import dataclass

WORD_BLOCKS = (16, 32, 64, 128)
CHANNELS = (1, 512)


@dataclass(frozen=True)
class Walk:
    """One walk over the visual tokens: rows a tile, warps, stages of prefetch, channels a chunk."""

    rows: int
    warps: int
    stages: int
    chunk: int


@dataclass(frozen=True)
class Blocks:
    """Block sizes of one call."""

    words: int
    forward: Walk
    backward: Walk
    programs: int


def word_block(L_t: int) -> int:
    """The smallest block that holds all words; a softmax needs them in one block."""
    return next(block for block in WORD_BLOCKS if block >= L_t)


def blocks(architecture: int, element_bytes: int, L_t: int, C: int) -> Blocks:
    """The block sizes for these inputs."""
    words = word_block(L_t)
    return Blocks(words, Walk(32, 8, 2, 0), Walk(32, 8, 1, 64), 264)
