"""Long counts: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.text import Text

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def counting(
    what: str, total: int, done: int = 0, *, unit: str = "images", shown: bool = True
) -> Iterator[Callable[[], None]]:
    """A function to call after each of ``total``; rate and time left do not count the first ``done``."""
    console = Console()
    if not shown or total == done:
        yield lambda: None
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _Rate(unit),
            TimeLeft(),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=total, completed=done)
            yield lambda: bar.advance(task)
    else:
        lines = _Lines(what, total, done, unit)
        yield lines.advance


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self._unit}/s" if task.speed else "", style="progress.data.speed")


class _Lines:
    def __init__(self, what: str, total: int, done: int, unit: str) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._count = self._before = done
        self._began = self._said = time.monotonic()

    def advance(self) -> None:
        self._count += 1
        now = time.monotonic()
        if now - self._said < SECONDS_BETWEEN_LINES and self._count < self._total:
            return
        self._said = now
        rate = (self._count - self._before) / max(now - self._began, 1e-9)
        left = timedelta(seconds=round((self._total - self._count) / rate))
        print(
            f"{self._what}: {self._count:,} of {self._total:,} {self._unit}, {rate:.1f} {self._unit}/s, "
            f"{left} left",
            flush=True,
        )
