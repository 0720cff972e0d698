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
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import torch

from maris_fast.kernels.choice.operation import Operation, of, read
from maris_fast.kernels.cuda_graph import captured, own_stream
from maris_fast.kernels.torch_backends import settle_backends

# Interleaved, so that what slows the machine slows all candidates.
ROUNDS = 5
# GPU time of a candidate per round, in ms.
ROUND_MS = 20.0
PR_SET_PDEATHSIG = 1
T = TypeVar("T")


def main(asked: Path, answers: Path, device: torch.device, parent: int) -> None:
    """Work through ``asked``, and append a line to ``answers`` for each report.

    Ends early, with a report of the cause, once the device no longer works in this process. The process ends
    with its ``parent``, also when that one is killed: nobody would read the answers.
    """
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        return
    settle_backends()
    if device.type == "cuda" and device.index is not None:  # else the first, which a process begins on
        torch.cuda.set_device(device)
    with answers.open("a") as file:

        def tell(**said: Any) -> None:
            file.write(json.dumps(said) + "\n")
            file.flush()
            os.fsync(file.fileno())

        try:
            for number, work in enumerate(json.loads(asked.read_text())):
                if work["candidates"]:
                    try_kind(work, device, lambda number=number, **said: tell(work=number, **said))
        except DeviceLostError:
            return


class DeviceLostError(Exception):
    """Every later call on the device fails in this process, as after an illegal access."""


def try_kind(work: Mapping[str, Any], device: torch.device, tell: Callable[..., None]) -> None:
    """Prove each candidate that is not yet known to be right, then time the right ones in turns.

    Raises:
        DeviceLostError: only another process can go on; what the last candidate did is reported.
    """
    operation = of(work["operation"])
    kind = read(operation.kind, work["kind"])
    right = list(work["right"])
    for candidate in work["candidates"]:
        if candidate in right:
            continue
        tell(candidate=candidate, trying="proof")
        proof = partial(operation.failures, candidate, kind, device)
        failures = _attempt(proof, candidate, device, tell)
        if failures is not None:
            tell(candidate=candidate, failures=failures)
        if failures == []:
            right.append(candidate)
        _free(device)
    if right:
        time_by_turns(operation, kind, right, device, tell)


def time_by_turns(
    operation: Operation, kind: Any, right: list[str], device: torch.device, tell: Callable[..., None]
) -> None:
    """Report each candidate's median ms over rounds; on a GPU of CUDA graphs if it can be captured.

    Raises:
        DeviceLostError: as of ``try_kind``.
    """
    seconds: dict[str, list[float]] = {candidate: [] for candidate in right}
    calls: dict[str, Callable[[], float]] = {}

    def first(candidate: str) -> float:
        calls[candidate] = _timer(operation.ready(candidate, kind, device), device)
        return calls[candidate]()

    with own_stream(device):
        for turn in range(ROUNDS if operation.timed(device) else 1):
            for candidate in list(seconds):
                tell(candidate=candidate, trying="time")
                call = calls[candidate] if turn else partial(first, candidate)
                measured = _attempt(call, candidate, device, tell)
                if measured is None:
                    del seconds[candidate]
                    calls.pop(candidate, None)
                else:
                    seconds[candidate].append(measured)
    for candidate, measured_ones in seconds.items():
        tell(candidate=candidate, ms=round(1e3 * median(measured_ones), 5))


def _attempt(
    call: Callable[[], T], candidate: str, device: torch.device, tell: Callable[..., None]
) -> T | None:
    """What ``call`` returns; None if it fails, which is reported.

    Raises:
        DeviceLostError: it fails, and the device with it; both are reported.
    """
    try:
        answer = call()
        _synchronize(device)  # an error in a kernel shows only here
        return answer
    # Whatever the compiler, the driver or the launch throws, the next candidate may be fine.
    except Exception as error:
        failure = _failure(error)
    try:
        _synchronize(device)
    except Exception as error:
        tell(candidate=candidate, **failure, lost=True)
        raise DeviceLostError from error
    tell(candidate=candidate, **failure)
    return None


def _timer(function: Callable[[], object], device: torch.device) -> Callable[[], float]:
    """A timer of seconds per call: over calls for about ROUND_MS on a GPU, over one call on a CPU."""
    if device.type != "cuda":

        def once() -> float:
            begun = time.perf_counter()
            function()
            return time.perf_counter() - begun

        return once
    run = captured(function) or function
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


def _synchronize(device: torch.device) -> None:
    torch.get_device_module(device).synchronize()


def _free(device: torch.device) -> None:
    if device.type == "cuda":
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
