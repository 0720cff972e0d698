"""Instruction counts of a kernel's loops from its SASS. Needs NVIDIA's disassembler, but no GPU."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import NamedTuple

import triton

from maris_fast.kernels.errors import UnsupportedError

BUNDLED = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
LINE = re.compile(r"\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?(\S+)\s*(.*?)\s*;")
# They end a basic block, as control may go elsewhere than to the next instruction.
JUMPS = ("BRA", "EXIT", "RET", "BRX", "JMP")
PRODUCTS = {"HMMA", "HGMMA", "UTCHMMA"}
WARP = 32


class Instruction(NamedTuple):
    """One instruction of a warp. ``target`` is where a branch goes."""

    address: int
    conditional: bool
    opcode: str
    target: int | None


@dataclass(frozen=True)
class Loop:
    """A natural loop: the addresses of its instructions, including those of loops inside it."""

    header: int
    addresses: frozenset[int]


def tool(name: str) -> str:
    """The path of one of CUDA's binary utilities: Triton's own, or one on the PATH.

    Raises:
        UnsupportedError: neither exists.
    """
    bundled = BUNDLED / name
    found = str(bundled) if bundled.exists() else shutil.which(name)
    if found is None:
        raise UnsupportedError(
            f"no {name} in {BUNDLED} or on the PATH; expected one of CUDA's binary utilities"
        )
    return found


def cuobjdump(cubin: bytes, *options: str) -> str:
    """The output of cuobjdump for a kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [tool("cuobjdump"), *options, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def disassembled(cubin: bytes) -> list[Instruction]:
    """All instructions of a kernel, by address."""
    instructions = []
    for line in cuobjdump(cubin, "-sass").splitlines():
        found = LINE.match(line)
        if found:
            address, predicate, opcode, operands = found.groups()
            jump = opcode.split(".")[0] == "BRA"
            target = re.search(r"0x([0-9a-f]+)", operands) if jump else None
            instructions.append(
                Instruction(int(address, 16), bool(predicate), opcode, int(target[1], 16) if target else None)
            )
    return instructions


def loops(instructions: list[Instruction]) -> list[Loop]:
    """The natural loops, outer ones before inner ones: of edges back to a block that dominates their source.

    A wait whose slow path is at the kernel's end jumps back too, but to a block that does not dominate it.
    """
    leaders = {instructions[0].address}
    for here, after in pairwise(instructions):
        if here.opcode.split(".")[0] in JUMPS:
            leaders.add(after.address)
    leaders |= {i.target for i in instructions if i.target is not None}
    blocks: dict[int, list[Instruction]] = {}
    for instruction in instructions:
        if instruction.address in leaders:
            current = blocks.setdefault(instruction.address, [])
        current.append(instruction)
    order = sorted(blocks)
    follows = dict(pairwise(order))
    successors: dict[int, set[int]] = {}
    for leader, block in blocks.items():
        last = block[-1]
        jumps = last.opcode.split(".")[0] in JUMPS
        successors[leader] = {last.target} if jumps and last.target is not None else set()
        if (not jumps or last.conditional) and leader in follows:
            successors[leader].add(follows[leader])
    predecessors = {leader: {p for p in order if leader in successors[p]} for leader in order}

    reached, ahead = set(), [order[0]]
    while ahead:
        leader = ahead.pop()
        if leader not in reached:
            reached.add(leader)
            ahead += successors[leader]
    dominators = {leader: set(reached) for leader in reached}
    dominators[order[0]] = {order[0]}
    changed = True
    while changed:
        changed = False
        for leader in sorted(reached - {order[0]}):
            through = set.intersection(*(dominators[p] for p in predecessors[leader] if p in reached))
            if through | {leader} != dominators[leader]:
                dominators[leader] = through | {leader}
                changed = True

    bodies: dict[int, set[int]] = {}
    for latch in reached:
        for header in successors[latch] & dominators[latch]:
            body, ahead = {header}, [latch]
            while ahead:
                leader = ahead.pop()
                if leader not in body:
                    body.add(leader)
                    ahead += predecessors[leader] & reached
            bodies.setdefault(header, set()).update(body)
    found = [
        Loop(header, frozenset(i.address for leader in body for i in blocks[leader]))
        for header, body in bodies.items()
    ]
    return sorted(found, key=lambda loop: -len(loop.addresses))


def shared_clocks(instruction: Instruction) -> int:
    """Clocks of a multiprocessor's shared-memory pipe, excluding bank conflicts and tensor cores' reads."""
    kind, *parts = instruction.opcode.split(".")
    if kind in ("LDSM", "STSM"):
        return 4 if "4" in parts else 2 if "2" in parts else 1
    if kind in ("LDS", "STS"):
        return 4 if "128" in parts else 2 if "64" in parts else 1
    return {"LDGSTS": 4, "SHFL": 1}.get(kind, 0)


def global_bytes(instruction: Instruction) -> int:
    """Upper bound on the bytes of a whole warp through L1 and L2, excluding TMA."""
    kind, *parts = instruction.opcode.split(".")
    if kind not in ("LDG", "STG", "LDGSTS", "RED", "ATOMG"):
        return 0
    widths = {"128": 16, "64": 8, "U16": 2, "S16": 2, "U8": 1, "S8": 1}
    return WARP * next((width for part, width in widths.items() if part in parts), 4)


class Counted(NamedTuple):
    """Counts for one warp and one iteration of a loop."""

    instructions: int
    shared_clocks: int
    global_bytes: int


def count_turn(instructions: list[Instruction], loop: Loop, inside: Mapping[Loop, int]) -> Counted:
    """Counts for one iteration of a loop, times ``inside`` for loops within it; slow paths count as taken."""

    def times(instruction: Instruction) -> int:
        return prod(turns for inner, turns in inside.items() if instruction.address in inner.addresses)

    counted = [(i, times(i)) for i in instructions if i.address in loop.addresses]
    return Counted(
        sum(n for _, n in counted),
        sum(n * shared_clocks(i) for i, n in counted),
        sum(n * global_bytes(i) for i, n in counted),
    )


def opcodes(instructions: list[Instruction], loop: Loop) -> Iterator[str]:
    """The opcodes in a loop."""
    return (i.opcode.split(".")[0] for i in instructions if i.address in loop.addresses)
