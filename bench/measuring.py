"""What is measured of a function: its time, the bandwidth it reaches, the memory it needs and keeps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
# Larger than any cache: 1 GiB on a GPU, 128 MiB on a CPU.
COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
# Runnable processes beyond our own threads from which a CPU counts as shared.
OTHERS = 0.5


def device_ms(function: Callable[[], object]) -> dict[str, float]:
    """Quantiles of the GPU's own time, in ms, with a cold L2 cache before each run."""
    from triton.testing import do_bench

    measured = do_bench(function, quantiles=list(QUANTILES))
    return {str(q): round(ms, 5) for q, ms in zip(QUANTILES, measured, strict=True)}


def wall_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Quantiles of rounds that were timed by the wall clock, in ms."""
    found = torch.quantile(torch.tensor(seconds, dtype=torch.float64), torch.tensor(QUANTILES).double())
    return {str(q): round(1e3 * s, 5) for q, s in zip(QUANTILES, found.tolist(), strict=True)}


def copy_gbps(device: torch.device) -> float:
    """Bytes read and written a second, in 1e9, by a copy of a large tensor on ``device``: median of runs."""
    source = torch.zeros(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    if device.type == "cuda":
        ms = device_ms(lambda: target.copy_(source))["0.5"]
    else:
        seconds = []
        for _ in range(9):
            start = time.perf_counter()
            target.copy_(source)
            seconds.append(time.perf_counter() - start)
        ms = wall_ms(seconds[2:])["0.5"]
    return round(2 * source.numel() / ms / 1e6, 2)


def peak_bytes(function: Callable[[], object]) -> int:
    """The most memory that one run holds on the GPU beyond what was held before."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    kept = function()
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated() - held
    del kept
    return peak


def saved_bytes(forward: Callable[[], object], inputs: Iterable[Tensor]) -> tuple[int, int]:
    """What autograd keeps for the backward: bytes that are not inputs, and all bytes.

    Counted as whole storages, each once, since that is what stays allocated.
    """
    given = {tensor.untyped_storage().data_ptr() for tensor in inputs}
    storages: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kept = forward()
    beyond = sum(size for place, size in storages.items() if place not in given)
    del kept
    return beyond, sum(storages.values())


def load_told() -> dict[str, Any]:
    """The CPU's load average over a minute, and whether others were at work beside us."""
    load = round(os.getloadavg()[0], 2)
    return {"load_average": load, "machine_shared": load - torch.get_num_threads() > OTHERS}
