"""How fast a run is, and how much of the time it waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


class Pace:
    """Counts since the last ``restart``: expressions of all ranks, this rank's images, seconds of waiting."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self.started = time.perf_counter()
        self.waited = 0.0
        self.expressions = 0
        self.images = 0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def watch(self, batches: Iterable[T]) -> Iterator[T]:
        """Passes ``batches`` on, and counts the time until each is there."""
        iterator = iter(batches)
        while True:
            before = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            finally:
                self.waited += time.perf_counter() - before
            yield batch
