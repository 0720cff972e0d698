"""A progress bar for work that counts: rate and time left on a terminal, silence elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from maris_fast.system.terminal import printable


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """A function to be called with the number done and the number in all."""
    with all_counted(what) as (count,):
        yield count


@contextmanager
def all_counted(*what: str) -> Iterator[tuple[Callable[[int, int], None], ...]]:
    """As ``counted``, for several kinds of work with a bar each; a bar shows from its first count on."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as bar:
        tasks = [bar.add_task(one, total=None, visible=len(what) == 1) for one in what]

        def counter(task: TaskID) -> Callable[[int, int], None]:
            return lambda done, total: bar.update(task, completed=done, total=total, visible=True)

        yield tuple(counter(task) for task in tasks)


class Runs:
    """Long runs, some side by side: on a terminal a bar, elsewhere a line when one ends; both with time left.

    The time left follows from the share that was done since ``Runs`` was made.
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
        """``done`` runs, counted in parts of one; the names of those at work."""
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
