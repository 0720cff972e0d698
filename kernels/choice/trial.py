"""The child process of a proof: tries candidates, and reports each before and after.

From the reports its parent (proving.py) knows which candidate it died of.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import torch

from maris_fast.kernels.choice.operation import Operation, of, read

# Interleaved, so that what slows the machine slows all candidates.
ROUNDS = 5
# GPU time of a candidate per round, in ms.
ROUND_MS = 20.0
PR_SET_PDEATHSIG = 1


def main(asked: Path, answers: Path, device: torch.device, parent: int) -> None:
    """Work through ``asked``, and append a line to ``answers`` for each report.

    The process ends with its ``parent``, also when that one is killed: nobody would read the answers.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    if device.type == "cuda" and device.index is not None:  # else the first, which a process begins on
        torch.cuda.set_device(device)
    with answers.open("a") as file:

        def tell(**said: Any) -> None:
            file.write(json.dumps(said) + "\n")
            file.flush()
            os.fsync(file.fileno())

        for number, work in enumerate(json.loads(asked.read_text())):
            if work["candidates"]:
                try_kind(work, device, lambda number=number, **said: tell(work=number, **said))


def try_kind(work: Mapping[str, Any], device: torch.device, tell: Callable[..., None]) -> None:
    """Prove each candidate that is not yet known to be right, then time the right ones in turns."""
    operation = of(work["operation"])
    kind = read(operation.kind, work["kind"])
    right = list(work["right"])
    for candidate in work["candidates"]:
        if candidate in right:
            continue
        tell(candidate=candidate, trying="proof")
        try:
            failures = operation.failures(candidate, kind, device)
        # Whatever the compiler, the driver or the launch throws, the next candidate may be fine.
        except Exception as error:
            tell(candidate=candidate, **_failure(error))
            continue
        tell(candidate=candidate, failures=failures)
        if not failures:
            right.append(candidate)
        _free(device)
    if right:
        time_by_turns(operation, kind, right, device, tell)


def time_by_turns(
    operation: Operation, kind: Any, right: list[str], device: torch.device, tell: Callable[..., None]
) -> None:
    """Report each candidate's median ms over rounds; on a GPU of CUDA graphs if it can be captured."""
    seconds: dict[str, list[float]] = {}
    calls: dict[str, Callable[[], float]] = {}
    with _own_stream(device):
        for candidate in right:
            tell(candidate=candidate, trying="time")
            try:
                calls[candidate] = _timer(operation.ready(candidate, kind, device), device)
                seconds[candidate] = [calls[candidate]()]
            except Exception as error:
                calls.pop(candidate, None)
                tell(candidate=candidate, **_failure(error))
        for _ in range(ROUNDS - 1 if operation.timed(device) else 0):
            for candidate, call in calls.items():
                tell(candidate=candidate, trying="time")
                seconds[candidate].append(call())
    for candidate in calls:
        tell(candidate=candidate, ms=round(1e3 * median(seconds[candidate]), 5))


def _timer(function: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """A timer of seconds per call: over calls for about ROUND_MS on a GPU, over one call on a CPU."""
    if device.type != "cuda":

        def once() -> float:
            begun = time.perf_counter()
            function()
            return time.perf_counter() - begun

        return once
    for _ in range(2):
        function()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    run: Callable[[], object] = graph.replay
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            function()
    except RuntimeError:
        torch.cuda.synchronize()
        run = function
    each = _timed_on_gpu(run, 3)
    times = max(1, min(200, round(ROUND_MS / 1e3 / max(each, 1e-6))))
    return lambda: _timed_on_gpu(run, times)


def _timed_on_gpu(run: Callable[[], object], times: int) -> float:
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    for _ in range(times):
        run()
    ended.record()
    ended.synchronize()
    return float(begun.elapsed_time(ended)) / 1e3 / times


def _own_stream(device: torch.device) -> Any:
    """A separate stream on a GPU, as calls can't be captured on the default one."""
    if device.type != "cuda":
        return torch.cuda.stream(None)
    torch.cuda.synchronize()
    return torch.cuda.stream(torch.cuda.Stream(device))


def _free(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def _failure(error: Exception) -> dict[str, Any]:
    """Why a candidate failed, and whether that may pass: memory depends on who else uses the device."""
    # Triton and the CUDA runtime raise a RuntimeError, cuBLAS and cuDNN one with a status.
    memory = isinstance(error, MemoryError) or any(
        words in str(error) for words in ("out of memory", "ALLOC_FAILED")
    )
    reason = "out of memory" if memory else f"{type(error).__name__}: {error}".splitlines()[0][:300]
    return {"reason": reason, "passing": memory}


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), torch.device(sys.argv[3]), int(sys.argv[4]))
