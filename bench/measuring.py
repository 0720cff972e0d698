"""Measurements of a function: its time, the bandwidth it reaches, the memory it needs and keeps."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any

import torch
from torch import Tensor

from maris_fast.kernels.cuda_graph import captured, own_stream

QUANTILES = (0.1, 0.25, 0.5, 0.75, 0.9)
# Larger than any cache: 1 GiB on a GPU, 128 MiB on a CPU.
COPIED_BYTES = {"cuda": 1 << 30, "cpu": 1 << 27}
# Runnable processes beyond our own threads above which a CPU counts as shared.
OTHERS = 0.5
# Calls whose host time is taken.
HOST_CALLS = 40


def device_ms(function: Callable[[], object]) -> tuple[str, dict[str, float]]:
    """Quantiles of the GPU's own time, in ms, with a cold L2 cache before each run.

    What is timed is a CUDA graph of one call ("graph"), which excludes the host; or the call itself
    ("device") if it can't be captured, for example on the default stream.
    """
    from triton.testing import do_bench

    replay = captured(function)
    measured = do_bench(replay or function, quantiles=list(QUANTILES))
    timer = "device" if replay is None else "graph"
    return timer, {str(q): round(ms, 5) for q, ms in zip(QUANTILES, measured, strict=True)}


def host_us(function: Callable[[], object], device: torch.device, calls: int = HOST_CALLS) -> float:
    """Microseconds that the host needs for a call, without waiting for the device: median of calls.

    Each call finds an idle device: a GPU's queue holds about a thousand launches, which twenty calls in plain
    PyTorch exceed, and once it is full, the host waits for the device.
    """

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    function()
    seconds = []
    for _ in range(calls):
        wait()
        seconds.append(seconds_of(function))
    wait()
    return round(1e6 * median(seconds), 2)


def wall_ms(seconds: Sequence[float]) -> dict[str, float]:
    """Quantiles of rounds that were timed by the wall clock, in ms."""
    found = torch.quantile(torch.tensor(seconds, dtype=torch.float64), torch.tensor(QUANTILES).double())
    return {str(q): round(1e3 * s, 5) for q, s in zip(QUANTILES, found.tolist(), strict=True)}


def seconds_of(function: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    before = time.perf_counter()
    function()
    return time.perf_counter() - before


def in_turn(
    ways: Mapping[str, Callable[[], float]], rounds: int
) -> tuple[dict[str, list[float]], tuple[float, float, float]]:
    """Seconds that each way reports, one per round, and the load average: minimum, median, maximum.

    Each round begins with a different way, so that none is always the first. An extra round before
    the first is not counted: it pays for memory, imports and kernels.
    """
    names, loads = list(ways), []
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name in (*names[number % len(names) :], *names[: number % len(names)]):
            loads.append(os.getloadavg()[0])
            took = ways[name]()
            if number:
                seconds[name].append(took)
    return seconds, (min(loads), median(loads), max(loads))


def paired(first: Sequence[float], second: Sequence[float]) -> float:
    """Median over rounds of the speedup of ``second`` over ``first``."""
    return median(a / b for a, b in zip(first, second, strict=True))


def copy_gbps(device: torch.device) -> float:
    """GB/s (1e9 bytes, read and written) of a copy of a large tensor on ``device``: median of runs."""
    source = torch.zeros(COPIED_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    if device.type == "cuda":
        with own_stream(device):
            _, quantiles = device_ms(lambda: target.copy_(source))
        ms = quantiles["0.5"]
    else:
        seconds = [seconds_of(lambda: target.copy_(source)) for _ in range(9)]
        ms = wall_ms(seconds[2:])["0.5"]
    return round(2 * source.numel() / ms / 1e6, 2)


def peak_bytes(function: Callable[[], object]) -> int:
    """Peak GPU memory of one run, beyond what was allocated before."""
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


def device_row(function: Callable[[], object], copy: float, told: dict[str, Any]) -> dict[str, Any]:
    """On a GPU: ``told``, a call's time and memory, and its bandwidth compared with ``copy``, in GB/s."""
    timer, ms = device_ms(function)
    row = {**told, "peak_bytes_over_inputs": peak_bytes(function), "timer": timer, "ms": ms}
    return row | bandwidth(row, copy)


def bandwidth(row: dict[str, Any], copy: float) -> dict[str, float]:
    """GB/s of a row with ``must_move`` (bytes), and their share of a copy's."""
    if "must_move" not in row:
        return {}
    gbps = round(row["must_move"] / row["ms"]["0.5"] / 1e6, 2)
    return {"GBps": gbps, "copy_GBps": copy, "share_of_copy": round(gbps / copy, 3)}


def load_told() -> dict[str, Any]:
    """The CPU's load average over a minute, and whether other processes shared the machine."""
    load = round(os.getloadavg()[0], 2)
    return {"load_average": load, "machine_shared": load - torch.get_num_threads() > OTHERS}
