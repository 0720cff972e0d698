"""Choice of device, precision and CPU cores for a process."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from traceback import clear_frames
from typing import Literal

import torch

from maris_fast.errors import ConfigError, MemoryShortageError
from maris_fast.kernels.torch_backends import settle_backends

BF16_CAPABILITY = (8, 0)
"""Oldest compute capability with bf16 in hardware."""


def usable(device: torch.device | str) -> torch.device:
    """``device`` as a ``torch.device``, if this machine has it; a GPU's backends are then settled.

    Args:
        device: "auto" is the GPU, or the CPU of a machine without one.

    Raises:
        ConfigError: there is no such device, or not on this machine.
    """
    try:
        named = torch.device(kind_of("auto") if device == "auto" else device)
    except RuntimeError as error:
        raise ConfigError(
            f"device = {device}, which is not a device; set device to auto, cpu or cuda"
        ) from error
    if named.type == "cuda":
        _require_cuda("device")
        if (named.index or 0) >= torch.cuda.device_count():
            raise ConfigError(
                f"device = {device}, but the GPUs here end at cuda:{torch.cuda.device_count() - 1}"
            )
        settle_backends()
    elif named.type != "cpu":
        raise ConfigError(f"device = {device}; set device to auto, cpu or cuda, it runs on no other")
    return named


def kind_of(wanted: Literal["auto", "cpu", "cuda"], setting: str = "device") -> Literal["cpu", "cuda"]:
    """The kind of device that a setting selects on this machine; a GPU's backends are then settled.

    Raises:
        ConfigError: CUDA was requested but is not available; the message names ``setting``.
    """
    if wanted == "cuda":
        _require_cuda(setting)
    if wanted == "cpu" or not torch.cuda.is_available():
        return "cpu"
    settle_backends()
    return "cuda"


def place(
    device: Literal["auto", "cpu", "cuda"],
    precision: Literal["auto", "fp32", "bf16"],
    local_rank: int = 0,
) -> tuple[torch.device, torch.dtype]:
    """The device and dtype that the encoders' settings select on this machine.

    The processes of a machine are spread over its GPUs by ``local_rank``, round-robin.

    Raises:
        ConfigError: CUDA was requested but is not available.
    """
    chosen = kind_of(device)
    if chosen == "cpu":
        keep_freed_memory()
    placed = torch.device(chosen)
    if chosen == "cuda" and local_rank:
        placed = torch.device(chosen, local_rank % torch.cuda.device_count())
    if precision == "auto":
        # Older GPUs emulate bf16, and PyTorch's only attention in it stores the attention matrix there.
        fast = chosen == "cuda" and torch.cuda.get_device_capability(placed) >= BF16_CAPABILITY
        precision = "bf16" if fast else "fp32"
    return placed, {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]


@contextmanager
def fitting(remedy: str) -> Iterator[None]:
    """Say what to change if the block does not fit in a GPU's memory.

    Raises:
        MemoryShortageError: PyTorch could not allocate; has its own numbers, and ``remedy``.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        clear_frames(error.__traceback__)  # else they keep their tensors as long as the new error lives
        sentences = str(error).splitlines()[0].split(". ")
        raise MemoryShortageError(f"{'. '.join(sentences[:3]).rstrip('.')}; {remedy}") from error


def share_cores(processes: int) -> None:
    """Limit this process to its share of the available cores, unless ``OMP_NUM_THREADS`` is set.

    Otherwise each process would use all of them, and two processes on two cores run slower than one.
    """
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Parameter numbers of ``mallopt``, from malloc.h."""
KEPT_BYTES, MAPPED_BYTES = 512 << 20, 32 << 20


def keep_freed_memory() -> None:
    """Let glibc keep up to 512 MB of freed memory instead of returning it and faulting it in at each step.

    Tensors of more than 32 MB are still returned at once. Does nothing if the environment sets a threshold
    (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``), or under another C library.
    """
    if any(f"MALLOC_{name}_THRESHOLD_" in os.environ for name in ("TRIM", "MMAP")):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_MMAP_THRESHOLD, MAPPED_BYTES)
        mallopt(_TRIM_THRESHOLD, KEPT_BYTES)


def peak_memory(device: torch.device) -> int:
    """Peak bytes allocated on a GPU, or on a CPU the peak resident memory of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return 1024 * int(line.split()[1])
    # For containers that hide it. Never below the peak of the process that started this one.
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def forget_peak_memory(device: torch.device) -> None:
    """Reset the peak that ``peak_memory`` reports."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # some containers forbid it: then the peak is the process's so far
            Path("/proc/self/clear_refs").write_text("5")


def _require_cuda(setting: str) -> None:
    if not torch.cuda.is_available():
        raise ConfigError(f"{setting} = cuda, but PyTorch sees no CUDA device; set {setting} to auto or cpu")
