"""Early stop without losing work: a signal to any rank, or its launcher's end, stops all after one step."""

from __future__ import annotations

import logging
import signal
import time
from types import FrameType, TracebackType

import torch
import torch.distributed as dist

from maris_fast.system import end_signals
from maris_fast.system.launcher_processes import Launchers
from maris_fast.train.ranks import Ranks

log = logging.getLogger(__name__)

ONE_REQUEST = 2.0
"""Seconds within which further signals count as the same request."""


LOOK_EVERY = 1.0
"""Seconds between checks of the launchers."""


class StopRequest:
    """Catches SIGINT and ``end_signals`` while it is entered; a later second SIGINT interrupts at once.

    The end of a launcher counts as a signal: without it the run could be neither followed nor stopped.

    Ranks agree by an asynchronous all-reduce of flags, which runs beside the step and is read one step later,
    so that nothing waits for the device, and hardly for the network.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._received: float | None = None
        self._flag = torch.zeros(1, dtype=torch.int32)
        self._pending: dist.Work | None = None
        self._before: dict[int, object] = {}
        self._launchers = Launchers()
        self._looked = time.monotonic()

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGINT, *end_signals.asked()):
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
        """Whether all ranks stop now; every rank must call it once per step, in the same place."""
        stop = False
        if self._pending is not None:
            with self._ranks.progress.waiting():
                self._pending.wait()
            stop = bool(self._flag.item())
        if not stop:
            self._look_for_launchers()
            self._flag.fill_(int(self._received is not None))
            self._pending = dist.all_reduce(self._flag, group=self._ranks.control, async_op=True)
        return stop

    def _look_for_launchers(self) -> None:
        now = time.monotonic()
        if self._received is None and now - self._looked > LOOK_EVERY:
            self._looked = now
            if self._launchers.gone():
                self._received = now
                log.warning("the launcher is gone: stopping, with a checkpoint")

    def _receive(self, number: int, frame: FrameType | None) -> None:
        # Launchers forward signals that the terminal has already sent: two at once are one request.
        now = time.monotonic()
        if number == signal.SIGINT and self._received is not None and now - self._received > ONE_REQUEST:
            signal.default_int_handler(number, frame)
        self._received = self._received or now
