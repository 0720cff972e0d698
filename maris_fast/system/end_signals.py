"""Signals by which a job is asked to end: a closed terminal, a batch system's warning, a time limit."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ASKED = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2, signal.SIGXCPU)


def asked() -> tuple[signal.Signals, ...]:
    """All of them, beside Ctrl-C; SIGHUP only where it does something now, as it does not under nohup."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return tuple(number for number in _ASKED if not (ignored and number == signal.SIGHUP))


@contextmanager
def interrupting() -> Iterator[None]:
    """Whichever comes first ends the block as Ctrl-C does; those after it do not disturb its clean-up."""
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
