"""What a run tells: JSON lines and TensorBoard always, a progress bar on a terminal, else a line a record."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

METRICS = "metrics.jsonl"


class Journal(Protocol):
    """Receives records; ``NoJournal`` on all ranks but the first."""

    def __enter__(self) -> Journal: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def advance(self, step: int) -> None: ...
    def record(self, kind: str, values: dict[str, Any]) -> None: ...
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

    def say(self, text: str) -> None:
        pass


class RunJournal:
    """Writes ``metrics.jsonl`` and ``tensorboard/`` in the run folder, and to standard output.

    Args:
        step: the run goes on from here; records of later steps, written before a crash, are dropped, so that
            each step stands there once.
    """

    def __init__(self, folder: Path, step: int, total_steps: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        _keep_until(folder / METRICS, step)
        self._lines = (folder / METRICS).open("a", buffering=1)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)
        self._bar = _ProgressBar(step, total_steps) if sys.stdout.isatty() else None

    def __enter__(self) -> RunJournal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lines.close()
        self._board.close()
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
            if isinstance(value, int | float) and name != "step":
                self._board.add_scalar(f"{kind}/{name}", value, values["step"])
        line = f"{kind} " + " ".join(
            f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in values.items()
            if isinstance(value, int | float)
        )
        if self._bar is not None and kind == "train":
            self._bar.describe(f"loss {values['loss']:.4f}, {values['expressions_per_s']:.0f} expressions/s")
        else:
            self.say(line)

    def say(self, text: str) -> None:
        """A line for the person who watches."""
        if self._bar is not None:
            self._bar.print(text)
        else:
            print(text, flush=True)


class _ProgressBar:
    def __init__(self, step: int, total_steps: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}"),
        )
        self._task = self._progress.add_task("", total=total_steps, completed=step)
        self._progress.start()

    def advance(self, step: int) -> None:
        self._progress.update(self._task, completed=step)

    def describe(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def print(self, text: str) -> None:
        self._progress.console.print(text, highlight=False)

    def close(self) -> None:
        self._progress.stop()


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
