"""Signals that ask a job to end: a closed terminal, a batch system's warning, a time limit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SECONDS_TO_STOP = 120.0
"""Time for ranks to finish a step, write a checkpoint and end with their launcher."""
_ASKED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


def asked() -> tuple[signal.Signals, ...]:
    """The signals that end a job, besides SIGINT; without SIGHUP if it is ignored, as under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return tuple(number for number in _ASKED if not (ignored and number == signal.SIGHUP))


@contextmanager
def interrupting() -> Iterator[None]:
    """End the block on the first of these signals as Ctrl-C does; later ones do not disturb its clean-up."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in asked()}
    came = False

    def interrupt(number: int, frame: FrameType | None) -> None:
        nonlocal came
        if not came:
            came = True
            signal.default_int_handler(number, frame)

    for number in before:
        signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
