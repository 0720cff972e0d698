"""What the compiler makes of a Triton kernel, ahead of time: no GPU is needed."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from maris_fast.kernels.triton_here import ARCHITECTURES

PTXAS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "ptxas"
# What a block may use of a multiprocessor's shared memory: CUDA's programming guide, compute capabilities.
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}
ELEMENT = {2: "bf16", 4: "fp32"}


class Used(NamedTuple):
    """Of one configuration: registers a thread, spilled bytes (stores and loads), shared memory a block."""

    registers: int
    spilled_bytes: int
    shared_bytes: int


def compile_kernel(
    kernel: Any, types: Mapping[str, str], architecture: int, warps: int, stages: int, **constants: int
) -> Used:
    """Compiles one configuration and asks ptxas. TRITON_INTERPRET must not be set.

    Args:
        kernel: a ``triton.jit`` function.
        types: of its arguments that are neither int32 nor a pointer (``*_ptr``) to fp32.
        architecture: compute capability, 90 for Hopper.
        warps, stages: of the launch.
        constants: its ``tl.constexpr`` arguments.
    """
    signature = {
        name: types.get(name, "*fp32" if name.endswith("_ptr") else "i32") for name in kernel.arg_names
    }
    signature |= dict.fromkeys(constants, "constexpr")
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, name in enumerate(kernel.arg_names)
        if name.endswith("_ptr")
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", architecture, 32)
    options = {"num_warps": warps, "num_stages": stages}
    compiled = triton.compile(source, target=target, options=options)
    ptx = compiled.asm["ptx"]
    name = re.search(r"\.target (\w+)", ptx)
    assert name is not None
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "kernel.ptx").write_text(ptx)
        command = [PTXAS, "-v", "--gpu-name", name[1], "kernel.ptx", "-o", "kernel.cubin"]
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stderr
    registers = re.search(r"Used (\d+) registers", said)
    spills = re.findall(r"(\d+) bytes spill", said)
    assert registers is not None
    assert spills
    return Used(int(registers[1]), sum(map(int, spills)), compiled.metadata.shared)


def print_reports(description: str | None, report: Callable[[int], Iterable[Mapping[str, Any]]]) -> None:
    """A module's command line: of the architectures asked for, or all, a JSON line a kernel."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("architectures", nargs="*", type=int, default=ARCHITECTURES)
    for architecture in parser.parse_args().architectures:
        for row in report(architecture):
            print(json.dumps(row), flush=True)
