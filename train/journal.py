"""What a run tells: JSON lines, TensorBoard, a line a record; on a terminal also a progress bar."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from PIL import Image

from maris_fast.config import TrainingSettings
from maris_fast.terminal import printable, write_line
from maris_fast.train.log_line import log_line
from maris_fast.train.run_files import BOARD, METRICS, PICTURES
from maris_fast.train.wandb_mirror import WandbMirror


class Journal(Protocol):
    """Receives records; ``NoJournal`` on all ranks but the first."""

    def __enter__(self) -> Journal: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def advance(self, step: int) -> None: ...
    def record(self, kind: str, values: dict[str, Any]) -> None: ...
    def picture(self, step: int, picture: Image.Image) -> None: ...
    def say(self, text: str) -> None: ...


class NoJournal:
    def __enter__(self) -> NoJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def advance(self, step: int) -> None:
        pass

    def record(self, kind: str, values: dict[str, Any]) -> None:
        pass

    def picture(self, step: int, picture: Image.Image) -> None:
        pass

    def say(self, text: str) -> None:
        pass


class RunJournal:
    """Writes ``metrics.jsonl``, ``tensorboard/`` and ``pictures/`` in the run folder, and to standard output.

    Args:
        step: the run goes on from here; records of later steps, written before a crash, are dropped, so that
            each step stands there once.
    """

    def __init__(self, settings: TrainingSettings, step: int, total_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        folder = self._folder = settings.run.folder
        _keep_until(folder / METRICS, step)
        self._lines = (folder / METRICS).open("a", buffering=1)
        self._board = SummaryWriter(str(folder / BOARD), purge_step=step + 1)
        self._total_steps = total_steps
        self._mirror = WandbMirror(settings) if settings.run.wandb_project is not None else None
        self._bar = _ProgressBar(step, total_steps) if sys.stdout.isatty() else None

    def __enter__(self) -> RunJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._board.close()
        if self._mirror is not None:
            self._mirror.close()
        if self._bar is not None:
            self._bar.close()

    def advance(self, step: int) -> None:
        """A step is done; costs nothing."""
        if self._bar is not None:
            self._bar.advance(step)

    def record(self, kind: str, values: dict[str, Any]) -> None:
        """One record of ``values['step']``; ``kind`` is 'train' or 'evaluation'."""
        self._lines.write(json.dumps({"kind": kind, **values}) + "\n")
        for name, value in values.items():
            if isinstance(value, int | float) and name not in ("step", "total_steps"):
                self._board.add_scalar(f"{kind}/{name}", value, values["step"])
        for name, scores in values.get("kinds", {}).items():
            for score, value in scores.items():
                self._board.add_scalar(f"{kind}_by_kind/{score}/{name}", value, values["step"])
        if self._mirror is not None:
            self._mirror.record(kind, values)
        self.say(log_line(kind, values, self._total_steps))

    def picture(self, step: int, picture: Image.Image) -> None:
        """``pictures/step-000123.png``; a disk that does not take it is said, and ends no run."""
        try:
            _save(picture, self._folder / PICTURES / f"step-{step:06}.png")
        except OSError as error:
            self.say(f"the picture of step {step} could not be written: {error}")
        self._board.add_image("samples", np.asarray(picture), step, dataformats="HWC")
        if self._mirror is not None:
            self._mirror.picture(step, picture)

    def say(self, text: str) -> None:
        """A line for the person who watches."""
        if self._bar is not None:
            self._bar.print(text)
        else:
            write_line(text, sys.stdout)


class _ProgressBar:
    def __init__(self, step: int, total_steps: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        self._task = self._progress.add_task("", total=total_steps, completed=step)
        self._progress.start()

    def advance(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def print(self, text: str) -> None:
        self._progress.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    picture.save(partial, format="PNG")
    partial.rename(path)


def _keep_until(metrics: Path, step: int) -> None:
    if not metrics.exists():
        return
    kept = [line for line in metrics.read_text().splitlines() if _step_of(line) <= step]
    partial = metrics.with_name(f".{metrics.name}.partial")
    partial.write_text("".join(f"{line}\n" for line in kept))
    partial.rename(metrics)


def _step_of(line: str) -> float:
    try:
        step: int = json.loads(line)["step"]
        return step
    except (ValueError, KeyError):
        return float("inf")  # torn by a crash
