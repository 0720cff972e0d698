"""Two ranks with a heartbeat that do not train: processes that start in milliseconds."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from maris_fast.config import EngineSettings
from maris_fast.train.heartbeat import Heartbeat
from maris_fast.train.progress_state import ProgressState


class Ranks:
    """``maris_fast.train.ranks.Ranks`` of two processes, over a pair of sockets instead of gloo."""

    world = 2

    def __init__(self, rank: int, other: socket.socket) -> None:
        self.rank, self.first = rank, rank == 0
        # Two files: a text file open for both drops its read-ahead when it is written to.
        self._heard, self._told = other.makefile("r"), other.makefile("w")
        self.progress = ProgressState()
        self.device = torch.device("cpu")

    def gather(self, value: Any) -> list[Any]:
        self._send(value)
        values = [value, json.loads(self._heard.readline())]
        return values if self.first else values[::-1]

    def from_rank_zero(self, work: Callable[[], Any]) -> Any:
        if self.first:
            value = work()
            self._send(value)
            return value
        return json.loads(self._heard.readline())

    def _send(self, value: Any) -> None:
        self._told.write(json.dumps(value) + "\n")
        self._told.flush()


class TwoHeartbeats:
    """Ranks 0 and 1 of a run: each does ``work`` within its heartbeat; ``log`` has their standard error."""

    def __init__(
        self, log: Path, silence: float, work: Callable[[Ranks, Heartbeat], None], stall: float = 180
    ) -> None:
        self.log = log
        log.touch()
        ends = socket.socketpair()
        settings = EngineSettings(device="cpu", heartbeat_seconds=silence, stall_seconds=stall)
        self.pids = [self._start(rank, ends[rank], settings, work) for rank in (0, 1)]
        self._left = list(self.pids)
        for end in ends:
            end.close()

    def __enter__(self) -> TwoHeartbeats:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self._left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)

    def signal(self, number: signal.Signals) -> None:
        for pid in self.pids:
            os.kill(pid, number)

    def ends(self) -> list[int]:
        """Exit codes, when both have ended."""
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]
        self._left.clear()
        return codes

    def _start(
        self,
        rank: int,
        end: socket.socket,
        settings: EngineSettings,
        work: Callable[[Ranks, Heartbeat], None],
    ) -> int:
        if pid := os.fork():
            return pid
        try:
            os.environ["MASTER_ADDR"] = "127.0.0.1"
            sys.stderr = self.log.open("a", buffering=1)
            ranks: Any = Ranks(rank, end)
            with Heartbeat(ranks, settings) as heartbeat:
                work(ranks, heartbeat)
            os._exit(0)
        finally:
            traceback.print_exc()
            os._exit(1)


def stays(seconds: float) -> None:
    """Sleep by a clock that keeps running while the process is stopped."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        time.sleep(left)
