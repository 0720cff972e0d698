"""Ending early without losing work: a signal to any rank stops all of them after the same step."""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType

import torch
import torch.distributed as dist

from maris_fast.train.ranks import Ranks

SIGNALS = (signal.SIGINT, signal.SIGTERM)
ONE_REQUEST = 2.0
"""Seconds within which further signals belong to the first."""


class StopRequest:
    """Catches SIGINT and SIGTERM while it is entered; a later second SIGINT interrupts at once.

    Ranks agree by a sum of flags that travels beside the step and is looked at one step later, so that
    nothing waits for the device, and hardly for the network.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._received: float | None = None
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._pending: dist.Work | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        if kind is None and self._pending is not None:
            self._pending.wait()

    def agreed(self) -> bool:
        """Whether all ranks stop now; every rank must ask once a step, in the same place."""
        stop = False
        if self._pending is not None:
            self._pending.wait()
            stop = bool(self._flag.item())
        if not stop:
            self._flag.fill_(int(self._received is not None))
            self._pending = dist.all_reduce(self._flag, group=self._ranks.control, async_op=True)
        return stop

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # Launchers pass on what the terminal has sent already: twice at once is one request.
        now = time.monotonic()
        if number == signal.SIGINT and self._received is not None and now - self._received > ONE_REQUEST:
            signal.default_int_handler(number, frame)
        self._received = self._received or now
