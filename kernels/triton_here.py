"""Whether Triton kernels can run on a device, and for which architecture they are cut there."""

from __future__ import annotations

import torch

ARCHITECTURES = (80, 90)
"""Compute capabilities that kernels are compiled for ahead of time; newer ones take the last one's blocks."""
INTERPRETER = 0
DTYPES = (torch.float16, torch.bfloat16, torch.float32)


# torch.compile can't look into a device's properties, and they don't change.
@torch.compiler.assume_constant_result
def why_not_here(device: torch.device, dtype: torch.dtype, interpreted: bool) -> str | None:
    """Why Triton kernels can't take inputs of this device and dtype; None when they can.

    ``interpreted``: whether the kernels at hand were imported under TRITON_INTERPRET.
    """
    if dtype not in DTYPES:
        return f"the inputs are {dtype}, and the Triton kernels take float16, bfloat16 and float32"
    if interpreted:
        if device.type != "cpu":
            return f"TRITON_INTERPRET is set, which runs kernels on the CPU, and the inputs are on {device}"
        if dtype == torch.bfloat16:
            from maris_fast.kernels.interpreted_bf16 import interpreter_computes_bf16

            if not interpreter_computes_bf16():
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
    if device.type != "cuda":
        return INTERPRETER
    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor
