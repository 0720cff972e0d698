"""An operation with fake candidates: usual, slow, fast, wrong, aborting, hanging, or failing for a while.

Some break the device, as an illegal access does: every later call on it fails in the same process.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from maris_fast.kernels.choice import Operation

SOURCE = "MARIS_FAST_TEST_SOURCE"
SECONDS = {"usual": 0.02, "slow": 0.2, "fast": 0.002, "quick": 0.005, "thinks": 0.1}
# Sizes of kinds with candidates that lack memory, one that another process kills, and one that hangs.
CROWDED, HUNTED, STUCK = 512, 1024, 2048
# One that takes its time.
LONG = 8192
# And with three that break the device: in a call, after one, or in a later round of timing.
BREAKING = 4096
LAST = {
    CROWDED: ["greedy", "greedy-later"],
    HUNTED: ["killed"],
    STUCK: ["hangs"],
    LONG: ["thinks"],
    BREAKING: ["breaks", "breaks-after", "breaks-later", "quick"],
}


class Kind(NamedTuple):
    """``dying``: with those that are wrong, abort or hang; ``fast``: with the fast one."""

    size: int
    fast: bool
    dying: bool


def candidates(kind: Kind, device: torch.device) -> list[str]:
    dying = ["wrong", "aborts", "hangs"] * kind.dying
    return ["usual", "slow", *["fast"] * kind.fast, *dying, *LAST.get(kind.size, [])]


def break_device() -> None:
    def fail(device: object = None) -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    torch.cpu.synchronize = fail


def failures(candidate: str, kind: Kind, device: torch.device) -> list[str]:
    torch.cpu.synchronize()  # as each call on a GPU fails if the context is broken
    if candidate in ("breaks", "breaks-after"):
        break_device()
    if candidate == "breaks":
        torch.cpu.synchronize()
    if candidate == "aborts":
        os.kill(os.getpid(), signal.SIGABRT)
    if candidate == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if candidate == "hangs":
        time.sleep(600)
    if candidate == "thinks":
        for _ in range(30):  # three seconds, of which none passes while the process is suspended
            time.sleep(0.1)
    if candidate == "greedy":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")
    return ["out: error 1.0e+00, allowed 1.0e-02"] if candidate == "wrong" else []


def ready(candidate: str, kind: Kind, device: torch.device) -> Callable[[], object]:
    if candidate in ("greedy-later", "breaks-later"):
        return fails_at_third_call(candidate)
    assert candidate in SECONDS, "timed before it was proven"
    return lambda: time.sleep(SECONDS[candidate])


def fails_at_third_call(candidate: str) -> Callable[[], object]:
    calls: list[None] = []

    def call() -> None:
        calls.append(None)
        if len(calls) == 3:
            if candidate == "greedy-later":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")
            break_device()

    return call


def timed(device: torch.device) -> bool:
    return True


OPERATION = Operation(
    name="fake",
    where="tests.kernels.fake_operation:OPERATION",
    kind=Kind,
    candidates=candidates,
    failures=failures,
    ready=ready,
    timed=timed,
    sources=(Path(os.environ.get(SOURCE, __file__)),),
)
