"""Block sizes of the kernels, by architecture, element size, word block and channels.

Chosen from what the compiler reports: every row fits in registers and shared memory of its architecture
(tests/kernels/test_mutual_attention_compiles.py compiles them all). None has been timed on a GPU yet: other
sizes are candidates (candidates.py) beside the table's, each proven and timed on the machine that runs them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import lru_cache

from maris_fast.kernels.triton_here import INTERPRETER, Limits, triton_version

WORD_BLOCKS = (16, 32, 64, 128)


@dataclass(frozen=True)
class Walk:
    """One walk over the visual tokens: rows per tile, warps, prefetch stages, channels per chunk, programs.

    A forward without chunks holds all of C in registers. ``programs`` is how many run at once; the walk is
    split evenly over them. In the table it is 0, as it depends on the device.
    """

    rows: int
    warps: int
    stages: int
    chunk: int = 0
    programs: int = 0

    @property
    def by_tma(self) -> bool:
        """Whether this is a walk by TMA, for Hopper: no other has tiles of 128 whole rows."""
        return self.rows == TMA_ROWS and not self.chunk

    def __str__(self) -> str:
        return f"{self.rows}/{self.warps}/{self.stages}/{self.chunk}/{self.programs}"

    @classmethod
    def read(cls, written: str) -> Walk:
        """The walk that ``str`` wrote.

        Raises:
            ValueError: ``written`` is anything else.
        """
        found = re.fullmatch(r"(\d+)/(\d+)/(\d+)/(\d+)/(\d+)", written)
        if found is None:
            raise ValueError(f"{written!r} is not a walk; expected rows/warps/stages/chunk/programs")
        return cls(*map(int, found.groups()))


@dataclass(frozen=True)
class Blocks:
    """Block sizes of one call. Its two walks need not agree: the backward only reads the gate."""

    words: int
    forward: Walk
    backward: Walk

    @property
    def cut(self) -> str:
        """Both walks as text, which ``cut_otherwise`` reads."""
        return f"{self.forward}+{self.backward}"


@dataclass(frozen=True)
class Row:
    """The walks of one word block.

    ``wide`` is the forward beyond WHOLE_C channels, and on devices with less shared memory than the
    ``forward_kb`` that ``forward`` needs. ``by_tma`` replaces the forward where TMA can read the rows.
    """

    forward: Walk
    wide: Walk
    backward: Walk
    forward_kb: int = 0
    by_tma: Walk | None = None


WITH_ROWS = (80, 86, 90, 100, 120)
WHOLE_C = 256
MIN_C, MAX_C = 16, 1024
TMA_ROWS = 128
# TMA reads rows of a multiple of 16 bytes; below TMA_MIN_C, products would leave most of a warp group idle.
TMA_BYTES, TMA_MIN_C = 16, 65

# Few large tiles are cheapest in the interpreter; several per program, so that sums over tiles are tested.
INTERPRETED = Row(Walk(32, 4, 1), Walk(32, 4, 1, 64), Walk(64, 4, 1, 64))
# fp32 can't use tensor cores, as its products are IEEE, and its rows take twice the registers.
FP32 = {
    16: Row(Walk(32, 8, 2, 32), Walk(32, 8, 2, 32), Walk(32, 8, 1, 32)),
    32: Row(Walk(32, 8, 2, 32), Walk(32, 8, 2, 32), Walk(32, 8, 1, 32)),
    64: Row(Walk(32, 8, 2, 32), Walk(32, 8, 2, 32), Walk(16, 8, 1, 32)),
    128: Row(Walk(16, 8, 1, 32), Walk(16, 8, 1, 32), Walk(16, 8, 1, 16)),
}

SMALL_TILES = {
    16: Row(Walk(32, 8, 2), Walk(32, 4, 2, 64), Walk(32, 8, 2, 64)),
    32: Row(Walk(32, 8, 2), Walk(32, 8, 2, 64), Walk(32, 8, 2, 32)),
    64: Row(Walk(32, 8, 2), Walk(32, 8, 2, 64), Walk(16, 8, 2, 64)),
    128: Row(Walk(16, 8, 2), Walk(32, 8, 2, 64), Walk(16, 8, 1, 32), forward_kb=144),
}
# For tensor cores that take 64 rows at a time.
WIDE_TILES = {
    16: Row(Walk(16, 4, 2), Walk(64, 4, 2, 64), Walk(64, 4, 2, 64)),
    32: Row(Walk(32, 8, 3), Walk(64, 4, 2, 64), Walk(64, 4, 2, 64)),
    64: Row(Walk(32, 8, 2), Walk(32, 8, 2, 64), Walk(32, 8, 1, 64)),
    128: Row(Walk(32, 8, 2), Walk(32, 8, 2, 64), Walk(16, 8, 2, 64), forward_kb=160),
}
HOPPER = dict.fromkeys((16, 32, 64), Walk(TMA_ROWS, 8, 3))
# Not a row of the table: only timing on a GPU can tell what it is worth (candidates.py). Fewer words take the
# block of 32 as well, as that of 16 spills. PARTS_BY_TMA: how many parts of the channels it processes one
# after the other; if they are narrower than with BY_TMA_MIN_C channels, it spills.
HOPPER_BACKWARD = dict.fromkeys((16, 32), Walk(TMA_ROWS, 8, 1))
WORDS_BY_TMA, PARTS_BY_TMA, BY_TMA_MIN_C = 32, 4, 129
# From Triton 3.8 on, fp32 with more words spills 304 to 2,760 bytes with any of these tiles.
FP32_WORDS = 64 if triton_version() >= (3, 8) else WORD_BLOCKS[-1]

# {(architecture, element bytes): {word block: row}}, for the installed Triton: see LATER.
TABLE: dict[tuple[int, int], dict[int, Row]] = {
    (INTERPRETER, 2): dict.fromkeys(WORD_BLOCKS, INTERPRETED),
    (INTERPRETER, 4): dict.fromkeys(WORD_BLOCKS, INTERPRETED),
    **{(architecture, 4): {**FP32} for architecture in WITH_ROWS},
    (80, 2): {**SMALL_TILES},
    # Here and below, only the rows that would spill on an architecture are replaced.
    (86, 2): {
        **SMALL_TILES,
        16: replace(SMALL_TILES[16], forward=Walk(16, 4, 2)),
        64: replace(SMALL_TILES[64], backward=Walk(16, 8, 1, 64)),
    },
    (90, 2): {words: replace(row, by_tma=HOPPER.get(words)) for words, row in WIDE_TILES.items()},
    (100, 2): {**WIDE_TILES, 64: replace(WIDE_TILES[64], wide=Walk(32, 8, 1, 64))},
    (120, 2): {**SMALL_TILES},
}
# Replacements for walks that spill 8 to 776 bytes with later versions of Triton. They spill nothing, but have
# up to a quarter more instructions, lack prefetch or read Z_v three times; earlier versions keep theirs.
# (version, architectures, element bytes, word block, part of the row, its walk)
LATER: tuple[tuple[tuple[int, int], tuple[int, ...], int, int, str, Walk], ...] = (
    ((3, 8), WITH_ROWS, 4, 32, "backward", Walk(16, 8, 1, 32)),
    ((3, 8), WITH_ROWS, 4, 64, "backward", Walk(16, 8, 1, 16)),
    ((3, 8), (100, 120), 4, 32, "forward", Walk(32, 8, 1, 32)),
    ((3, 8), (100, 120), 4, 32, "wide", Walk(32, 8, 1, 32)),
    ((3, 8), (90, 100), 2, 32, "backward", Walk(64, 4, 2, 32)),
    ((3, 8), (100,), 2, 64, "forward", Walk(32, 8, 1)),
    ((3, 8), (100,), 2, 128, "backward", Walk(16, 8, 1, 64)),
    ((3, 8), (120,), 2, 16, "wide", Walk(32, 4, 1, 64)),
    ((3, 9), (86,), 4, 16, "backward", Walk(16, 8, 1, 32)),
    ((3, 9), (86,), 4, 64, "forward", Walk(32, 8, 1, 32)),
    ((3, 9), (86,), 4, 64, "wide", Walk(32, 8, 1, 32)),
    ((3, 9), (80,), 2, 128, "backward", Walk(16, 8, 1, 16)),
    ((3, 9), WITH_ROWS, 2, 128, "forward", Walk(32, 8, 2, 64)),
    ((3, 9), (86, 120), 2, 64, "forward", Walk(32, 8, 2, 64)),
    ((3, 9), (90,), 2, 64, "forward", Walk(32, 8, 1)),
    ((3, 9), (90,), 2, 64, "by_tma", Walk(TMA_ROWS, 8, 1)),
    ((3, 9), (90, 100), 2, 16, "backward", Walk(64, 4, 2, 32)),
    ((3, 9), (100,), 2, 16, "wide", Walk(64, 4, 1, 64)),
    ((3, 9), (120,), 2, 16, "wide", Walk(32, 8, 1, 64)),
)
# Differences where Aᵀ Z_v is divided by A's column sums, whose registers would make the table's rows spill.
DIVIDED: dict[tuple[int, int], dict[int, dict[str, Walk | None]]] = {
    (80, 2): {32: {"backward": Walk(32, 8, 2, 64)}, 64: {"backward": Walk(16, 8, 1, 64)}},
    (86, 2): {16: {"wide": Walk(32, 4, 1, 64)}},
    (90, 2): {64: {"by_tma": None}, 128: {"forward": Walk(16, 8, 2)}},
}
# Programs of eight warps and more than 128 registers per thread fill a multiprocessor.
WARPS_AT_ONCE = 8


def _amend(version: tuple[int, int]) -> None:
    for since, architectures, element_bytes, words, part, walk in LATER:
        for architecture in architectures if version >= since else ():
            rows = TABLE[architecture, element_bytes]
            rows[words] = replace(rows[words], **{part: walk})  # type: ignore[arg-type]


_amend(triton_version())


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
    """``smallest_block`` for words that are known to fit."""
    block = smallest_block(L_t)
    assert block is not None
    return block


def blocks(
    device: Limits, element_bytes: int, L_t: int, C: int, tma: bool = True, divided: bool = False
) -> Blocks:
    """The table's block sizes for a call on a device.

    An architecture without rows takes those of the next lower one, with the device's own shared memory.
    ``tma``: whether the forward may use TMA. ``divided``: whether Aᵀ Z_v is divided by A's column sums.
    """
    words = word_block(L_t)
    known = max(known for known, _ in TABLE if known <= device.architecture)
    row = TABLE[known, element_bytes][words]
    if divided:
        row = replace(row, **DIVIDED.get((known, element_bytes), {}).get(words, {}))  # type: ignore[arg-type]
    whole = C <= WHOLE_C and row.forward_kb * 1024 <= device.shared_bytes
    by_tma = tma and TMA_MIN_C <= C <= WHOLE_C and C * element_bytes % TMA_BYTES == 0
    forward = row.by_tma if row.by_tma and by_tma else row.forward if whole else row.wide
    # With a single chunk the compiler merges both walks, and spills.
    chunk = min(row.backward.chunk, max(16, 1 << ((C - 1).bit_length() - 1)))
    return Blocks(
        words,
        replace(forward, programs=at_once(forward, device)),
        replace(row.backward, chunk=chunk, programs=at_once(row.backward, device)),
    )


def alternatives(
    device: Limits, element_bytes: int, L_t: int, C: int, divided: bool = False
) -> dict[str, Blocks]:
    """Blocks that may be faster than the table's on a device, by what differs; arguments as in ``blocks``."""
    own = blocks(device, element_bytes, L_t, C, divided=divided)
    found = {}
    if own.forward.by_tma:
        # Half of its rows would be too few for TMA.
        by_pointers = blocks(device, element_bytes, L_t, C, tma=False, divided=divided)
        found["forward by pointers"] = replace(own, forward=by_pointers.forward)
    else:
        found["forward, half the rows"] = replace(own, forward=_half_the_rows(own.forward))
    found["backward, half the rows"] = replace(own, backward=_half_the_rows(own.backward))
    if own.forward.by_tma and own.words in HOPPER_BACKWARD and C >= BY_TMA_MIN_C:
        by_tma = HOPPER_BACKWARD[own.words]
        by_tma = replace(by_tma, programs=at_once(by_tma, device))
        found["backward by TMA"] = replace(own, backward=by_tma)
    return {name: other for name, other in found.items() if other != own}


def _half_the_rows(walk: Walk) -> Walk:
    """No fewer than 16, the rows of the smallest product."""
    return replace(walk, rows=max(16, walk.rows // 2))


def at_once(walk: Walk, device: Limits) -> int:
    """How many of a walk's programs run at once on a device."""
    return device.processors * max(1, WARPS_AT_ONCE // walk.warps)


@lru_cache(maxsize=4096)
def split_evenly(tiles: int, owners: int, programs: int) -> tuple[int, int]:
    """Tiles per program and programs per owner, none of them idle.

    An owner is an expression in the forward and in the backward by TMA, an image in the other backward.

    ``programs`` run at once, the others in waves after them. The split chosen is the one whose waves take the
    fewest tiles one after the other; among equal ones, the one with the fewest programs.
    """

    def one_after_the_other(tiles_per_split: int) -> int:
        waves = -(-owners * -(-tiles // tiles_per_split) // programs)
        # What a program does before its first tile and after its last takes about as long as half a tile.
        return waves * (2 * tiles_per_split + 1)

    most = max(1, -(-tiles * owners // programs))
    candidates = {-(-tiles // parts) for parts in range(1, tiles + 1) if -(-tiles // parts) <= 2 * most}
    best = min(sorted(candidates, reverse=True), key=one_after_the_other)
    return best, -(-tiles // best)


def cut_otherwise(own: Blocks, cut: str) -> Blocks:
    """The blocks of a call with the walks of ``cut``: the forward's and, after a +, the backward's.

    Raises:
        ValueError: ``cut`` is not two walks.
    """
    forward, _, backward = cut.partition("+")
    return replace(own, forward=Walk.read(forward), backward=Walk.read(backward))
