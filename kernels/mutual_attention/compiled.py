"""What the compiler makes of every row of the block-size table, ahead of time: no GPU is needed.

``python -m maris_fast.kernels.mutual_attention.compiled`` prints a JSON line a kernel, with its registers,
spilled bytes and shared memory as ptxas reports them. TRITON_INTERPRET must not be set.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from maris_fast.kernels.ahead_of_time import ELEMENT, compile_kernel, print_reports
from maris_fast.kernels.mutual_attention import backward, forward
from maris_fast.kernels.mutual_attention.blocks import MAX_C, TABLE, WHOLE_C, Walk, blocks

NARROW_C = 64

OF_THE_INPUTS = ("z_v_ptr", "z_l_ptr", "f_lav_ptr", "f_val_ptr", "grad_ptr", "dz_v_ptr", "dz_l_ptr")
TYPES = {
    "word_mask_ptr": "*u8",
    "expr_offsets_ptr": "*i32",
    "gate_ptr": "*i32",
    "threshold": "fp32",
    "eps": "fp32",
}


def _types(element_bytes: int) -> dict[str, str]:
    return {**TYPES, **dict.fromkeys(OF_THE_INPUTS, f"*{ELEMENT[element_bytes]}")}


def configurations(architecture: int) -> Iterator[tuple[Any, int, int, int, Walk, dict[str, int]]]:
    """Kernel, element bytes, words, C, walk and constants of every row, with all features switched on."""
    for (row_architecture, element_bytes), rows in TABLE.items():
        if row_architecture != architecture:
            continue
        for words, row in rows.items():
            gate = {"GATE_WORDS": max(1, words // 32), "HAS_GROUPS": True, "BLOCK_T": words}
            forwards = [(row.wide, MAX_C)]
            if row.forward != row.wide:
                # Half as many channels once: the compiler then aims at fewer registers.
                forwards += [
                    (row.forward, C) for C in ((WHOLE_C, WHOLE_C // 2) if words == 32 else (WHOLE_C,))
                ]
            for walk, C in forwards:
                kernel = (
                    forward.mutual_attention_fwd_chunked_kernel
                    if walk.chunk
                    else forward.mutual_attention_fwd_kernel
                )
                constants = {"KEEP": 0, "HAS_MASK": True, "BLOCK_V": walk.rows, "BLOCK_C": walk.chunk or C}
                yield kernel, element_bytes, words, C, walk, {"C": C, **gate, **constants}
            # The narrow one once: the compiler treats a walk of few chunks differently.
            for C in (WHOLE_C, NARROW_C) if words == 32 else (WHOLE_C,):
                walk = blocks(architecture, element_bytes, words, C).backward
                constants = {"BLOCK_V": walk.rows, "CHUNK": walk.chunk, "STAGES": walk.stages}
                constants |= {"C": C, "HAS_GRAM": element_bytes == 2, **gate}
                # Prefetch in the backward is its first loop's own affair.
                alone = replace(walk, stages=1)
                yield backward.mutual_attention_bwd_kernel, element_bytes, words, C, alone, constants
            if element_bytes == 2:
                alone = replace(row.backward, stages=1)
                constants = {"C": WHOLE_C, "BLOCK_T": words, "CHUNK": alone.chunk}
                kernel = backward.mutual_attention_bwd_gram_kernel
                yield kernel, element_bytes, words, WHOLE_C, alone, constants
        over_words = {"C": MAX_C, "BLOCK_C": MAX_C}
        rows_a_program = {"BLOCK_R": 4}
        walk = Walk(rows=1, warps=4, stages=1, chunk=MAX_C)
        yield forward.mutual_attention_fwd_words_kernel, element_bytes, 1, MAX_C, walk, over_words
        yield backward.mutual_attention_bwd_finish_kernel, element_bytes, 1, MAX_C, walk, over_words
        kernel = backward.mutual_attention_bwd_words_kernel
        yield kernel, element_bytes, 1, MAX_C, walk, over_words | rows_a_program


def report(architecture: int) -> Iterator[dict[str, Any]]:
    """Compiles every configuration of an architecture."""
    for kernel, element_bytes, words, C, walk, constants in configurations(architecture):
        used = compile_kernel(
            kernel, _types(element_bytes), architecture, walk.warps, walk.stages, **constants
        )
        cut = f"{walk.rows} rows, {walk.warps} warps, {walk.stages} stages, chunk {walk.chunk or C}"
        yield {
            "kernel": kernel.__name__,
            "architecture": architecture,
            "dtype": ELEMENT[element_bytes],
            "words": words,
            "C": C,
            "walk": cut,
            **used._asdict(),
        }


if __name__ == "__main__":
    print_reports(__doc__, report)
