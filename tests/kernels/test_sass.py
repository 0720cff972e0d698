"""Counts from machine code, on a made-up kernel."""

from __future__ import annotations

from maris_fast.kernels.sass import Instruction, count_turn, global_bytes, loops, shared_clocks

# Nested loops; a wait whose slow path is at the end and jumps back into the middle of the outer loop.
KERNEL = [
    Instruction(0x00, False, "MOV", None),
    Instruction(0x10, False, "LDG.E.128", None),  # the outer loop begins
    Instruction(0x20, True, "BRA", 0x90),
    Instruction(0x30, False, "FFMA", None),
    Instruction(0x40, False, "LDS.64", None),  # the inner one
    Instruction(0x50, True, "BRA", 0x40),
    Instruction(0x60, False, "STG.E", None),
    Instruction(0x70, True, "BRA", 0x10),
    Instruction(0x80, False, "EXIT", None),
    Instruction(0x90, False, "SYNCS", None),  # the slow path
    Instruction(0xA0, True, "BRA", 0x90),
    Instruction(0xB0, False, "BRA", 0x30),
]


def test_loops_are_found_outer_ones_first_and_a_slow_path_is_not_an_entry() -> None:
    assert [loop.header for loop in loops(KERNEL)] == [0x10, 0x40, 0x90]
    outer, inner, wait = loops(KERNEL)
    assert outer.addresses == {*range(0x10, 0x80, 0x10), 0x90, 0xA0, 0xB0}
    assert inner.addresses == {0x40, 0x50}
    assert wait.addresses == {0x90, 0xA0}


def test_an_inner_loop_counts_as_often_as_it_is_taken() -> None:
    outer, inner, _ = loops(KERNEL)
    once, thrice = count_turn(KERNEL, outer, {}), count_turn(KERNEL, outer, {inner: 3})
    assert once == (10, 2, 512 + 128)
    assert thrice == (14, 6, 512 + 128)


def test_widths_decide_clocks_and_bytes() -> None:
    def one(opcode: str) -> Instruction:
        return Instruction(0, False, opcode, None)

    clocks = {"LDSM.16.M88.4": 4, "STSM.16.M88.2": 2, "STS.128": 4, "LDS": 1, "SHFL.BFLY": 1, "FADD": 0}
    assert {opcode: shared_clocks(one(opcode)) for opcode in clocks} == clocks
    sizes = {"LDG.E.64": 256, "STG.E.U16": 64, "LDG.E.U8": 32, "LDGSTS.E.BYPASS.128": 512, "LDS.128": 0}
    assert {opcode: global_bytes(one(opcode)) for opcode in sizes} == sizes
