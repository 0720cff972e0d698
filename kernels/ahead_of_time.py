"""What the compiler makes of a Triton kernel, ahead of time: no GPU is needed."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from maris_fast.kernels.sass import cuobjdump
from maris_fast.kernels.triton_here import ARCHITECTURES, FP_FUSION

ELEMENT = {2: "bf16", 4: "fp32"}


class Used(NamedTuple):
    """Of one configuration: registers a thread, its bytes of spilled ones, shared memory a block."""

    registers: int
    spilled_bytes: int
    shared_bytes: int


def compile_to_cubin(
    kernel: Any,
    types: Mapping[str, str],
    architecture: int,
    warps: int,
    stages: int,
    unaligned: Collection[str] = (),
    **constants: float,
) -> tuple[bytes, int]:
    """The machine code of one configuration, and its shared memory. TRITON_INTERPRET must not be set.

    Args:
        kernel: a ``triton.jit`` function.
        types: of its arguments that are neither int32 nor a pointer (``*_ptr``) to fp32.
        architecture: compute capability, 90 for Hopper.
        warps, stages: of the launch.
        unaligned: pointers that are no multiple of 16.
        constants: its ``tl.constexpr`` arguments.
    """
    signature = {
        name: types.get(name, "*fp32" if name.endswith("_ptr") else "i32") for name in kernel.arg_names
    }
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name.endswith("_ptr") and name not in unaligned
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", architecture, 32)
    options = {"num_warps": warps, "num_stages": stages, "enable_fp_fusion": FP_FUSION}
    compiled = triton.compile(source, target=target, options=options)
    return compiled.asm["cubin"], compiled.metadata.shared


def used(cubin: bytes, shared_bytes: int) -> Used:
    """What machine code takes, as it says itself. What spills stands on the stack; nothing else does."""
    said = re.search(r"REG:(\d+) STACK:(\d+)", cuobjdump(cubin, "-res-usage"))
    assert said is not None
    return Used(int(said[1]), int(said[2]), shared_bytes)


def compile_kernel(
    kernel: Any, types: Mapping[str, str], architecture: int, warps: int, stages: int, **options: Any
) -> Used:
    """Compiles one configuration; arguments as in ``compile_to_cubin``."""
    return used(*compile_to_cubin(kernel, types, architecture, warps, stages, **options))


# Of an architecture; of all rows, or those of one dtype and block, such as bf16/32; and of its own options.
Report = Callable[..., Iterable[Mapping[str, Any]]]


def print_reports(
    description: str | None,
    report: Report,
    of_sass: Report | None = None,
    **options: tuple[str, Any],
) -> None:
    """A module's command line: of the architectures asked for, or all, a JSON line a kernel.

    ``of_sass`` is the report of ``--sass``, of Hopper unless others are asked for. ``options``: switches,
    each with its help and what the report then gets by its name.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("architectures", nargs="*", type=int)
    parser.add_argument("--only", metavar="DTYPE/BLOCK", help="such as bf16/32")
    if of_sass is not None:
        parser.add_argument("--sass", action="store_true", help="count each row's instructions in the SASS")
    for name, (told, value) in options.items():
        parser.add_argument(f"--{name}", action="store_const", const=value, help=told)
    asked = parser.parse_args()
    given = {name: getattr(asked, name) for name in options if getattr(asked, name) is not None}
    sass = of_sass if of_sass is not None and asked.sass else None
    for architecture in asked.architectures or ((90,) if sass else ARCHITECTURES):
        rows = (sass or report)(architecture, asked.only, **given)
        for row in rows:
            print(json.dumps(row), flush=True)
