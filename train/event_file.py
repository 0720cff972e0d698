"""TensorBoard's event files, written synchronously.

``SummaryWriter`` writes in a thread of its own: an error there prints a stray traceback, reaches the training
at some later call, and loses the events that the thread held.
"""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard.summary import image, scalar

from maris_fast.train.by_products import RecordFile


class EventFile:
    """Curves and pictures in ``folder``; those of an earlier start, from step ``first`` on, are dropped.

    A failed write raises OSError; its events are kept, and written with the next ones.
    """

    def __init__(self, folder: Path, first: int) -> None:
        name = f"events.out.tfevents.{time.time():010.0f}.{socket.gethostname()}.{os.getpid()}"
        self._file = RecordFile(folder / name)
        start = SessionLog(status=SessionLog.START)
        for about in ({"file_version": "brain.Event:2"}, {"session_log": start}):
            self._file.waiting.append(_record(step=first, **about))

    @property
    def waiting(self) -> int:
        return len(self._file.waiting)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        events = (_record(step, summary=scalar(tag, value)) for tag, value in values.items())
        self._file.append(b"".join(events))

    def picture(self, step: int, tag: str, picture: Image.Image) -> None:
        self._file.append(_record(step, summary=image(tag, np.asarray(picture), dataformats="HWC")))

    def close(self) -> None:
        try:
            self._file.catch_up()
        finally:
            self._file.close()


def _record(step: int, **about: Any) -> bytes:
    coded = io.BytesIO()
    RecordWriter(coded).write(Event(step=step, wall_time=time.time(), **about).SerializeToString())
    return coded.getvalue()
