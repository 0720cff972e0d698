"""What this rank is doing, for its heartbeat to report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import main_thread
from types import FrameType, TracebackType
from typing import Literal

Phase = Literal[
    "starting", "reading data", "computing", "compiling", "evaluating", "writing a checkpoint", "ending"
]

CLONE = Path(__file__).resolve().parents[1]


@dataclass
class ProgressState:
    """Written by the main thread, read by the heartbeat thread. Unchanged ``moves`` mean no progress."""

    phase: Phase = "starting"
    step: int = 0
    moves: int = 0
    _waiting: int = field(default=0, repr=False)

    def at(self, phase: Phase, step: int) -> None:
        self.phase, self.step = phase, step
        self.moves += 1

    @contextmanager
    def busy(self, phase: Phase, step: int) -> Iterator[None]:
        """Set ``phase`` for the block, and the previous phase after it, unless the block raises."""
        before = self.phase
        self.at(phase, step)
        yield
        self.at(before, step)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Mark a wait for other ranks or the device that cannot be recognised from the stack."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def look(self) -> tuple[bool, str]:
        """Whether the main thread waits for other ranks now, and where in the code it is.

        On a GPU, a wait for the device in DeepSpeed or PyTorch, which may be one for other ranks, is not
        recognised.
        """
        frame = sys._current_frames().get(main_thread().ident or 0)
        waits, place = self._waiting > 0, ""
        innermost = frame
        while frame is not None:
            waits = waits or _is_collective(frame, frame is innermost)
            place = place or _place(frame, frame.f_lineno)
            frame = frame.f_back
        return waits, place


def place_of(trace: TracebackType | None) -> str:
    """Where in this project an error was raised, innermost."""
    place = ""
    while trace is not None:
        place = _place(trace.tb_frame, trace.tb_lineno) or place
        trace = trace.tb_next
    return place


def _is_collective(frame: FrameType, innermost: bool) -> bool:
    file = frame.f_code.co_filename
    if file.endswith("torch/distributed/distributed_c10d.py"):
        return True
    # ZeRO 3 starts its gathers early; the wait for them is a call into C++ from a method named ``wait``.
    return innermost and "/deepspeed/" in file and frame.f_code.co_name == "wait"


def _place(frame: FrameType, line: int) -> str:
    """``train/loop.py:88 in run`` for a frame of this project, else nothing."""
    file = Path(frame.f_code.co_filename)
    if not file.is_relative_to(CLONE) or "site-packages" in file.parts:
        return ""
    path = file.relative_to(CLONE).as_posix().replace("maris_fast/train/", "train/")
    return f"{path}:{line} in {frame.f_code.co_name}"
