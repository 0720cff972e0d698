"""Ahead-of-time compilation of Triton kernels, and the resources that they use; no GPU is needed."""

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
    """Resources of one configuration: registers and spilled bytes per thread, shared memory per block."""

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
    """The machine code of one configuration and its shared memory. TRITON_INTERPRET must not be set.

    Args:
        kernel: a ``triton.jit`` function.
        types: types of the arguments that are neither int32 nor a pointer (``*_ptr``) to fp32.
        architecture: compute capability, 90 for Hopper.
        warps, stages: warps and pipeline stages of the launch.
        unaligned: pointers that are not a multiple of 16.
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
    """The resources that machine code records for itself. Only spilled registers are on the stack."""
    said = re.search(r"REG:(\d+) STACK:(\d+)", cuobjdump(cubin, "-res-usage"))
    assert said is not None
    return Used(int(said[1]), int(said[2]), shared_bytes)


def compile_kernel(
    kernel: Any, types: Mapping[str, str], architecture: int, warps: int, stages: int, **options: Any
) -> Used:
    """Compile one configuration; arguments as in ``compile_to_cubin``."""
    return used(*compile_to_cubin(kernel, types, architecture, warps, stages, **options))


# Takes an architecture, a filter (None or one dtype and block, such as bf16/32), and options of its own.
Report = Callable[..., Iterable[Mapping[str, Any]]]


def print_reports(
    description: str | None,
    report: Report,
    of_sass: Report | None = None,
    **options: tuple[str, Any],
) -> None:
    """Run a module's command line: print a JSON line per kernel for the requested architectures, or for all.

    ``of_sass`` is the report for ``--sass``, by default for Hopper only. ``options`` maps each switch to its
    help text and to the value that the report then gets as an argument of that name.
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
