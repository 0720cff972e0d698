"""The kernels as calls launch them, for ahead-of-time compilation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from maris_fast.kernels.ahead_of_time import ELEMENT
from maris_fast.kernels.mutual_attention import backward, backward_hopper, forward, forward_hopper
from maris_fast.kernels.mutual_attention.blocks import (
    FP32_WORDS,
    HOPPER_BACKWARD,
    MAX_C,
    PARTS_BY_TMA,
    WHOLE_C,
    WORD_BLOCKS,
    WORDS_BY_TMA,
    Walk,
    blocks,
)
from maris_fast.kernels.mutual_attention.launching import (
    Build,
    gram_beside,
    over_expressions,
    over_rows_of_words,
    over_words,
    scale,
)
from maris_fast.kernels.mutual_attention.operator import switches
from maris_fast.kernels.mutual_attention.reference import AS_PRINTED, Reading
from maris_fast.kernels.triton_here import known_limits

NARROW_C = 64
# In 16 bits, rows that TMA can't read: not a multiple of 16 bytes.
ODD_C = 252

OF_THE_INPUTS = (
    "z_v_ptr",
    "z_l_ptr",
    "f_lav_ptr",
    "f_val_ptr",
    "grad_ptr",
    "dz_v_ptr",
    "dz_l_ptr",
    "of_expressions_ptr",
)
# The operator aligns inputs and parameters, but passes these on at any address.
MAYBE_UNALIGNED = ("word_mask_ptr", "expr_offsets_ptr")
TYPES = {
    "word_mask_ptr": "*u8",
    "expr_offsets_ptr": "*i32",
    "gate_ptr": "*i32",
    "threshold": "fp32",
    "eps": "fp32",
}


class Configuration(NamedTuple):
    """One kernel as a call launches it."""

    kernel: Any
    element_bytes: int
    words: int
    C: int
    walk: Walk
    constants: dict[str, Any]
    unaligned: tuple[str, ...] = ()

    def types(self) -> dict[str, str]:
        """The types of the kernel's arguments."""
        element = ELEMENT[self.element_bytes]
        types = {**TYPES, **dict.fromkeys(OF_THE_INPUTS, f"*{element}")}
        if self.walk.by_tma:
            rows, channels = self.walk.rows, self.constants["BLOCK_C"]
            part = channels // self.constants.get("PARTS", 1)
            types["z_v_desc"] = types["grad_desc"] = f"tensordesc<{element}[1, {rows}, {part}]>"
            types["f_lav_desc"] = f"tensordesc<{element}[1, {rows}, {channels // 4}]>"
        return types


def forward_configuration(
    element_bytes: int, words: int, C: int, walk: Walk, reading: Reading = AS_PRINTED
) -> Configuration:
    """The forward with all features switched on."""
    columns, fill, scaled = switches(reading)
    if walk.by_tma:
        kernel = forward_hopper.mutual_attention_fwd_hopper_kernel
    elif walk.chunk:
        kernel = forward.mutual_attention_fwd_chunked_kernel
    else:
        kernel = forward.mutual_attention_fwd_kernel
    block_c = walk.chunk or 1 << (C - 1).bit_length()
    constants: dict[str, Any] = {
        "C": C,
        "GATE_WORDS": max(1, words // 32),
        "BLOCK_T": words,
        "BLOCK_V": walk.rows,
    }
    constants |= {"BLOCK_C": block_c, "KEEP": 0, "HAS_MASK": True, "HAS_GROUPS": True}
    constants |= {"COLUMNS": columns, "FILL": fill, "SCALE": scale(scaled, C)}
    return Configuration(kernel, element_bytes, words, C, walk, constants)


def backward_configuration(
    element_bytes: int,
    words: int,
    C: int,
    walk: Walk,
    groups: bool = True,
    reading: Reading = AS_PRINTED,
) -> Configuration:
    """The backward. The chunked one sets the prefetch of its first loop itself."""
    columns, _, scaled = switches(reading)
    if walk.by_tma:
        taken: dict[str, Any] = {"C": C, "BLOCK_V": walk.rows, "BLOCK_T": WORDS_BY_TMA}
        taken |= {"BLOCK_C": 1 << (C - 1).bit_length(), "PARTS": PARTS_BY_TMA}
        taken |= {"COLUMNS": columns, "SCALE": scale(scaled, C), "HAS_GROUPS": groups}
        kernel = backward_hopper.mutual_attention_bwd_hopper_kernel
        return Configuration(kernel, element_bytes, words, C, walk, taken)
    constants: dict[str, Any] = {
        "C": C,
        "GATE_WORDS": max(1, words // 32),
        "BLOCK_T": words,
        "BLOCK_V": walk.rows,
    }
    constants |= {"CHUNK": walk.chunk, "STAGES": walk.stages, "HAS_GROUPS": groups}
    constants |= {"HAS_GRAM": element_bytes == 2, "COLUMNS": columns, "SCALE": scale(scaled, C)}
    kernel = backward.mutual_attention_bwd_kernel
    return Configuration(kernel, element_bytes, words, C, replace(walk, stages=1), constants)


def configurations(architecture: int, reading: Reading = AS_PRINTED) -> Iterator[Configuration]:
    """Every kernel that a call can launch on an architecture, at all widths that matter to the compiler."""
    columns, device = switches(reading)[0], known_limits(architecture)
    for element_bytes in (2, 4):
        for words in (words for words in WORD_BLOCKS if element_bytes == 2 or words <= FP32_WORDS):
            # Half as many channels for one word block: the compiler then aims at fewer registers.
            widths = [MAX_C, WHOLE_C, ODD_C, *([WHOLE_C // 2] if words == 32 else [])]
            walks: dict[Walk, int] = {}
            for C in widths:
                walk = blocks(device, element_bytes, words, C, divided=columns).forward
                if walk not in walks or C == WHOLE_C // 2:
                    walks.setdefault(walk, C)
                    yield forward_configuration(element_bytes, words, C, walk, reading)
            # The narrow one for one word block: the compiler treats a walk of few chunks differently.
            for C in (WHOLE_C, NARROW_C) if words == 32 else (WHOLE_C,):
                walk = blocks(device, element_bytes, words, C, divided=columns).backward
                yield backward_configuration(element_bytes, words, C, walk, reading=reading)
            own = blocks(device, element_bytes, words, WHOLE_C, divided=columns)
            beside = [own]
            # The candidate by TMA is the same for fewer words.
            if element_bytes == 2 and words == WORDS_BY_TMA and architecture == 90:
                by_tma = HOPPER_BACKWARD[words]
                yield backward_configuration(element_bytes, words, WHOLE_C, by_tma, reading=reading)
                kernel = backward_hopper.mutual_attention_bwd_sum_kernel
                yield _small(kernel, element_bytes, words, over_expressions(WHOLE_C))
                beside.append(replace(own, backward=by_tma))
            if element_bytes == 2:
                kernel = backward.mutual_attention_bwd_gram_kernel
                for sizes in beside:
                    yield _small(kernel, element_bytes, words, gram_beside(sizes, WHOLE_C))
        own = blocks(device, element_bytes, 32, WHOLE_C, divided=columns)
        for walked in (
            forward_configuration(element_bytes, 32, WHOLE_C, own.forward, reading),
            backward_configuration(element_bytes, 32, WHOLE_C, own.backward, reading=reading),
        ):
            yield walked._replace(unaligned=MAYBE_UNALIGNED)
        for kernel, build in (
            (forward.mutual_attention_fwd_words_kernel, over_words),
            (backward.mutual_attention_bwd_finish_kernel, over_words),
            (backward.mutual_attention_bwd_words_kernel, over_rows_of_words),
        ):
            yield _small(kernel, element_bytes, 1, build(MAX_C, columns))


def _small(kernel: Any, element_bytes: int, words: int, build: Build) -> Configuration:
    """A kernel beside the walks, as calls launch it."""
    C = build.constants["C"]
    walk = Walk(1, build.warps, build.stages, build.constants.get("CHUNK", C))
    return Configuration(kernel, element_bytes, words, C, walk, build.constants)
