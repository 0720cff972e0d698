"""The cost of forward and backward per row of visual tokens, counted in their SASS."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from maris_fast.kernels.ahead_of_time import ELEMENT, compile_to_cubin, used
from maris_fast.kernels.mutual_attention.blocks import HOPPER_BACKWARD, WHOLE_C, WORD_BLOCKS, blocks
from maris_fast.kernels.mutual_attention.configurations import (
    Configuration,
    backward_configuration,
    forward_configuration,
)
from maris_fast.kernels.mutual_attention.operator import switches
from maris_fast.kernels.mutual_attention.reference import AS_PRINTED, Reading
from maris_fast.kernels.sass import PRODUCTS, count_turn, disassembled, loops, opcodes
from maris_fast.kernels.triton_here import known_limits


def sass_report(
    architecture: int, only: str | None = None, reading: Reading = AS_PRINTED
) -> Iterator[dict[str, Any]]:
    """One row per kernel and word block, for bf16 and C = 256; the backward without and with image groups.

    Per row of Z_v: a warp's instructions, clocks of the shared-memory pipe, bytes through L1 and L2 at most
    (cached data counts each time it is loaded). These are for one iteration of the loop over tiles with one
    expression, with as many iterations of the loops over chunks as there are chunks.
    """
    for words in WORD_BLOCKS:
        if only not in (None, f"{ELEMENT[2]}/{words}"):
            continue
        own = blocks(known_limits(architecture), 2, words, WHOLE_C, divided=switches(reading)[0])
        yield _row(forward_configuration(2, words, WHOLE_C, own.forward, reading), architecture)
        for groups in (False, True):
            yield _row(backward_configuration(2, words, WHOLE_C, own.backward, groups, reading), architecture)
        if own.forward.by_tma and words in HOPPER_BACKWARD:
            by_tma = HOPPER_BACKWARD[words]
            for groups in (False, True):
                yield _row(backward_configuration(2, words, WHOLE_C, by_tma, groups, reading), architecture)


def _row(one: Configuration, architecture: int) -> dict[str, Any]:
    walk = one.walk
    cubin, shared_bytes = compile_to_cubin(
        one.kernel, one.types(), architecture, walk.warps, walk.stages, one.unaligned, **one.constants
    )
    instructions = disassembled(cubin)
    # The loop over tiles, and inside it those over chunks; the others contain no product.
    walked = [loop for loop in loops(instructions) if not PRODUCTS.isdisjoint(opcodes(instructions, loop))]
    tile = walked[0]
    inner = [loop for loop in walked[1:] if not any(other.addresses < loop.addresses for other in walked)]
    chunks = one.C // walk.chunk if walk.chunk else 1
    counted = count_turn(instructions, tile, dict.fromkeys(inner if walk.chunk else [], chunks))
    taken = used(cubin, shared_bytes)
    by_tma = 2 * one.C * one.element_bytes if walk.by_tma else 0
    return {
        "kernel": one.kernel.__name__,
        "architecture": architecture,
        "words": one.words,
        **({"groups": one.constants["HAS_GROUPS"]} if "_bwd_" in one.kernel.__name__ else {}),
        "walk": f"{walk.rows}/{walk.warps}/{walk.chunk or one.C}",
        "instructions_per_row": round(counted.instructions * walk.warps / walk.rows, 1),
        "shared_clocks_per_row": round(counted.shared_clocks * walk.warps / walk.rows, 1),
        "l2_bytes_per_row": round(counted.global_bytes * walk.warps / walk.rows + by_tma),
        "registers": taken.registers,
        "spilled_bytes": taken.spilled_bytes,
    }
