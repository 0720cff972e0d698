"""Output of a run: JSON lines, TensorBoard, one line per record; on a terminal also a progress bar."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from PIL import Image

from maris_fast.config import TrainingSettings
from maris_fast.system.files import replaced
from maris_fast.system.progress import Steps
from maris_fast.system.standard_streams import lost_lines, take_untold
from maris_fast.system.terminal import write_line
from maris_fast.train.by_products import ByProduct, RecordFile
from maris_fast.train.log_line import log_line
from maris_fast.train.run_files import BOARD, METRICS, PICTURES
from maris_fast.train.wandb_mirror import WandbMirror

if TYPE_CHECKING:
    from maris_fast.train.event_file import EventFile

log = logging.getLogger(__name__)

QUIET_SECONDS = 60.0
"""Seconds without output after which a step is reported that has no record."""


class RunLogger:
    """Receives what a run reports, and discards it: for all ranks but the first."""

    def __enter__(self) -> RunLogger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """The run is over."""

    def advance(self, step: int) -> None:
        """A step is done."""

    def record(self, kind: str, values: dict[str, Any]) -> None:
        """One record of ``values['step']``; ``kind`` is 'train', 'evaluation' or 'attention'."""

    def picture(self, step: int, draw: Callable[[], Image.Image]) -> None:
        """The picture that ``draw`` returns, called only if needed."""

    def say(self, text: str) -> None:
        """A line of text for the user."""


class RankZeroLogger(RunLogger):
    """Writes ``metrics.jsonl``, ``tensorboard/`` and ``pictures/`` in the run folder, and to standard output.

    None of them ends a run: a failure to write is reported once. Unwritten records are kept and written
    later, lost pictures are counted.

    Args:
        step: the run continues from here; records of later steps, written before a crash, are dropped, so
            that each step occurs once.
    """

    def __init__(self, settings: TrainingSettings, step: int, total_steps: int) -> None:
        folder = self._folder = settings.run.folder
        self._step, self._total_steps = step, total_steps
        self._metrics, self._curves = ByProduct(METRICS), ByProduct("TensorBoard's curves")
        self._pictures = ByProduct(PICTURES)
        self._lines = RecordFile(folder / METRICS, lambda: _keep_until(folder / METRICS, step))
        self._metrics.attempt(self._lines.catch_up)
        self._board: EventFile | None = None
        self._curves.attempt(self._open_board)
        self._mirror = WandbMirror(settings) if settings.run.wandb_project is not None else None
        self._said = time.monotonic()
        self._bar = Steps(step, total_steps) if sys.stdout.isatty() else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        if self._mirror is not None:
            self._mirror.close()
        if self._board is not None:
            self._curves.attempt(self._board.close)
        self._tell_of_losses()
        self._write_untold()
        self._lines.close()

    def advance(self, step: int) -> None:
        """A step is done; costs nothing. Without a terminal it is reported after a while without output."""
        if self._bar is not None:
            self._bar.advance(step)
        elif time.monotonic() - self._said > QUIET_SECONDS:
            self.say(f"at step {step} of {self._total_steps}")

    def record(self, kind: str, values: dict[str, Any]) -> None:
        self._step = values["step"]
        self._write_untold()
        self._write({"kind": kind, **values})
        curves = _curves(kind, values)
        if self._board is not None:
            self._curves.attempt(partial(self._board.scalars, self._step, curves))
        if self._mirror is not None:
            self._mirror.scalars(self._step, curves)
        self.say(log_line(kind, values, self._total_steps))

    def picture(self, step: int, draw: Callable[[], Image.Image]) -> None:
        """``pictures/step-000123.png`` of what ``draw`` returns."""
        drawn: list[Image.Image] = []

        def save() -> None:
            drawn.append(draw())
            _save(drawn[0], self._folder / PICTURES / f"step-{step:06}.png")

        self._pictures.attempt(save)
        for picture in drawn:
            if self._board is not None:
                self._curves.attempt(partial(self._board.picture, step, "samples", picture))
            if self._mirror is not None:
                self._mirror.picture(step, picture)

    def say(self, text: str) -> None:
        self._said = time.monotonic()
        if self._bar is not None:
            self._bar.print(text)
        else:
            write_line(text, sys.stdout)

    def _open_board(self) -> None:
        from maris_fast.train.event_file import EventFile  # a failing import of TensorBoard ends no run

        self._board = EventFile(self._folder / BOARD, self._step + 1)

    def _write(self, record: dict[str, Any]) -> None:
        self._metrics.attempt(partial(self._lines.append, f"{json.dumps(record)}\n".encode()))

    def _write_untold(self) -> None:
        for text in take_untold():
            self._write({"kind": "warning", "step": self._step, "text": text})

    def _tell_of_losses(self) -> None:
        if self._lines.waiting:
            self._metrics.attempt(self._lines.catch_up)
        lost = {
            f"{METRICS}: records": len(self._lines.waiting),
            "TensorBoard: records": self._board.waiting if self._board is not None else 0,
            f"{PICTURES}: pictures": self._pictures.failures,
            "standard output: lines": lost_lines(),
        }
        for what, count in lost.items():
            if count:
                log.warning("%s that could not be written: %d", what, count)


def _curves(kind: str, values: dict[str, Any]) -> dict[str, float]:
    """Tag and value of each curve."""
    curves = {
        f"{kind}/{name}": value
        for name, value in values.items()
        if isinstance(value, int | float) and name not in ("step", "total_steps", "resumed_from")
    }
    for name, scores in values.get("kinds", {}).items():
        curves |= {f"{kind}_by_kind/{score}/{name}": value for score, value in scores.items()}
    return curves


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    with replaced(path) as file:
        picture.save(file, format="PNG")


def _keep_until(metrics: Path, step: int) -> None:
    if not metrics.exists():
        return
    before = metrics.read_bytes()
    kept = b"".join(line + b"\n" for line in before.splitlines() if _step_of(line) <= step)
    if kept != before:
        with replaced(metrics) as file:
            file.write_bytes(kept)


def _step_of(line: bytes) -> float:
    try:
        step: int = json.loads(line)["step"]
        return step
    except (ValueError, KeyError, TypeError):
        return float("inf")  # truncated by a crash
