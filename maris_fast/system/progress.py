"""Progress of long work: a bar with the time left on a terminal, occasional lines elsewhere."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from maris_fast.system.terminal import printable

SECONDS_BETWEEN_LINES = 30.0


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to call with the number done and the total."""
    with all_counted(what) as (count,):
        yield count


@contextmanager
def all_counted(*what: str) -> Iterator[tuple[Callable[[int, int], None], ...]]:
    """As ``counted``, for several kinds of work with a bar each; a bar appears at its first count."""
    console = Console()
    if not console.is_terminal:
        yield tuple(_Lines(one).at for one in what)
        return
    with _bar(console) as bar:
        tasks = [bar.add_task(one, total=None, visible=len(what) == 1) for one in what]

        def counter(task: TaskID) -> Callable[[int, int], None]:
            return lambda done, total: bar.update(task, completed=done, total=total, visible=True)

        yield tuple(counter(task) for task in tasks)


class Runs:
    """Long runs, some concurrent: on a terminal a bar, elsewhere a line when one ends; both with time left.

    The time left is extrapolated from the share done since ``Runs`` was created.
    """

    def __init__(self, total: int, done: int) -> None:
        self._total, self._first, self._done = total, float(done), float(done)
        self._began = time.monotonic()
        self._console = Console(soft_wrap=True)
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[left]}"),
        )
        self._bar = Progress(*columns, console=self._console, disable=not self._console.is_terminal)
        self._task = self._bar.add_task("", total=total, completed=done, left="")

    def __enter__(self) -> Runs:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def at(self, done: float, running: Sequence[str]) -> None:
        """Show how many runs are done, as a fractional number, and the names of those that are running."""
        self._done = done
        self._bar.update(
            self._task, completed=done, description=printable(", ".join(running)), left=self._left()
        )

    def say(self, line: str) -> None:
        left = self._left()
        self._console.print(printable(f"{line}; {left}" if left else line), markup=False, highlight=False)

    def _left(self) -> str:
        done, missing = self._done - self._first, self._total - self._done
        if done <= 0 or missing <= 0:
            return ""
        seconds = (time.monotonic() - self._began) * missing / done
        return f"about {timedelta(seconds=round(seconds))} left"


@contextmanager
def counting(
    what: str, total: int, done: int = 0, *, unit: str = "images", shown: bool = True
) -> Iterator[Callable[[], None]]:
    """A function to call after each of ``total`` items; rate and time left exclude the first ``done``."""
    console = Console()
    if not shown or total == done:
        yield lambda: None
    elif console.is_terminal:
        with _bar(console, _Rate(unit)) as bar:
            task = bar.add_task(what, total=total, completed=done)
            yield lambda: bar.advance(task)
    else:
        lines = _Lines(what, f" {unit}")
        numbers = itertools.count(done + 1)
        lines.at(done, total)
        yield lambda: lines.at(next(numbers), total)


class Steps:
    """A bar for the steps of a training, below the lines that it prints."""

    def __init__(self, step: int, total_steps: int) -> None:
        self._bar = _bar(Console())
        self._task = self._bar.add_task("training", total=total_steps, completed=step)
        self._bar.start()

    def advance(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def print(self, text: str) -> None:
        self._bar.console.print(printable(text), highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._bar.stop()


def _bar(console: Console, *more: ProgressColumn) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), *more)
    return Progress(*columns, TimeRemainingColumn(), console=console)


class _Rate(ProgressColumn):
    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.1f} {self._unit}/s" if task.speed else "", style="progress.data.speed")


class _Lines:
    """A line every half a minute, and at the end if the work took longer or has a ``unit``."""

    def __init__(self, what: str, unit: str = "") -> None:
        self._what, self._unit = what, unit
        self._first: int | None = None
        self._began = self._said = time.monotonic()

    def at(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first, self._began, self._said = done, now, now
        ended = done == total and (self._unit or self._said > self._began)
        if not ended and now - self._said < SECONDS_BETWEEN_LINES:
            return
        self._said = now
        rate = (done - self._first) / max(now - self._began, 1e-9)
        left = timedelta(seconds=round((total - done) / rate)) if rate else "unknown time"
        print(
            f"{self._what}: {done:,} of {total:,}{self._unit}, {rate:.1f}{self._unit}/s, {left} left",
            flush=True,
        )
