"""Whether Triton kernels can run on a device, and the limits that their block sizes must fit."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import torch

from maris_fast.kernels.compiled_constant import constant_when_compiled

INTERPRETER = 0
# Fused multiply-add, rounded once, as in all proofs and counts. Triton 3.10 changes the default.
FP_FUSION = True
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


def triton_version() -> tuple[int, int]:
    """Major and minor number of the installed Triton; (0, 0) if there is none."""
    try:
        major, minor = version("triton").split(".")[:2]
    except PackageNotFoundError:
        return 0, 0
    return int(major), int(minor)


class Limits(NamedTuple):
    """A device's compute capability (90 for Hopper), multiprocessors, shared memory per block in bytes."""

    architecture: int
    processors: int
    shared_bytes: int


# One device per compute capability that kernels are compiled for ahead of time: A100, A10, L40, H100, B200,
# RTX 5090; shared memory as in CUDA's programming guide. A device that is present is queried instead.
KNOWN = {
    of.architecture: of
    for of in (
        Limits(INTERPRETER, 2, 227 * 1024),
        Limits(80, 108, 163 * 1024),
        Limits(86, 72, 99 * 1024),
        Limits(89, 142, 99 * 1024),
        Limits(90, 132, 227 * 1024),
        Limits(100, 148, 227 * 1024),
        Limits(120, 170, 99 * 1024),
    )
}
ARCHITECTURES = tuple(known for known in KNOWN if known != INTERPRETER)


def known_limits(architecture: int) -> Limits:
    """The architecture's limits in KNOWN, or those of the next lower one there, to compile ahead of time."""
    return KNOWN[max(known for known in KNOWN if known <= architecture)]._replace(architecture=architecture)


# torch.compile can't look into a device's properties, and they don't change.
@constant_when_compiled
def why_not_here(device: torch.device, dtype: torch.dtype, interpreted: bool) -> str | None:
    """Why Triton kernels can't take inputs of this device and dtype; None when they can.

    ``interpreted``: whether the kernels were imported under TRITON_INTERPRET.
    """
    if dtype not in DTYPES:
        return f"the inputs are {dtype}, and the Triton kernels take float16, bfloat16 and float32"
    if interpreted:
        if device.type != "cpu":
            return f"TRITON_INTERPRET is set, which runs kernels on the CPU, and the inputs are on {device}"
        from maris_fast.kernels.interpreter import interpreter_computes_bf16, interpreter_counts

        if not interpreter_counts():
            return (
                "Triton's interpreter can't run loops with this NumPy (triton issue 9171); "
                "install triton>=3.7 or numpy<2.4"
            )
        if dtype == torch.bfloat16 and not interpreter_computes_bf16():
            return "Triton's interpreter multiplies bfloat16 wrongly (triton issue 11584)"
    elif device.type != "cuda":
        return f"Triton kernels run on CUDA, and the inputs are on {device} (or set TRITON_INTERPRET=1)"
    elif torch.version.cuda is None:
        return "the Triton kernels are cut for NVIDIA GPUs only"
    elif architecture(device) < ARCHITECTURES[0]:
        return f"the Triton kernels need compute capability 8.0, and {device} has {architecture(device) / 10}"
    return None


def architecture(device: torch.device) -> int:
    """The compute capability, 90 for Hopper."""
    return limits(device).architecture


@cache
def limits(device: torch.device) -> Limits:
    """The limits of a device; those of the interpreter are in KNOWN."""
    if device.type != "cuda":
        return KNOWN[INTERPRETER]
    properties: Any = torch.cuda.get_device_properties(device)
    return Limits(
        10 * properties.major + properties.minor,
        properties.multi_processor_count,
        properties.shared_memory_per_block_optin,
    )
