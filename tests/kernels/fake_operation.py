"""An operation with fake candidates: usual, slow, fast, wrong, aborting, hanging, or failing for a while."""

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
SECONDS = {"usual": 0.02, "slow": 0.2, "fast": 0.002}
# Sizes of kinds with a candidate that lacks memory, one that another process kills, and one that hangs.
CROWDED, HUNTED, STUCK = 512, 1024, 2048


class Kind(NamedTuple):
    """``dying``: with those that are wrong, abort or hang; ``fast``: with the fast one."""

    size: int
    fast: bool
    dying: bool


def candidates(kind: Kind, device: torch.device) -> list[str]:
    last = {CROWDED: ["greedy"], HUNTED: ["killed"], STUCK: ["hangs"]}.get(kind.size, [])
    return ["usual", "slow", *["fast"] * kind.fast, *["wrong", "aborts", "hangs"] * kind.dying, *last]


def failures(candidate: str, kind: Kind, device: torch.device) -> list[str]:
    if candidate == "aborts":
        os.kill(os.getpid(), signal.SIGABRT)
    if candidate == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if candidate == "hangs":
        time.sleep(600)
    if candidate == "greedy":
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 TiB")
    return ["out: error 1.0e+00, allowed 1.0e-02"] if candidate == "wrong" else []


def ready(candidate: str, kind: Kind, device: torch.device) -> Callable[[], object]:
    assert candidate in SECONDS, "timed before it was proven"
    return lambda: time.sleep(SECONDS[candidate])


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
