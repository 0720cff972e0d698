"""Batches of several epochs in a row, so that the next epoch's first are ready when this one ends."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass, field

from maris_fast.data_shards.stream.batch import Batch
from maris_fast.data_shards.stream.step_order import Share


class FollowingShares(Iterator[Share]):
    """Shares of an epoch, then those added by ``follow`` before the iterator has ended."""

    def __init__(self, first: Iterable[Share]) -> None:
        self._now = iter(first)
        self._next: deque[Iterable[Share]] = deque()
        self._ended = False
        self._lock = threading.Lock()

    def follow(self, shares: Iterable[Share]) -> bool:
        """Add shares to the end; return False if the iterator has already ended."""
        with self._lock:
            if not self._ended:
                self._next.append(shares)
            return not self._ended

    def __next__(self) -> Share:
        with self._lock:
            while True:
                for share in self._now:
                    return share
                if not self._next:
                    self._ended = True
                    raise StopIteration
                self._now = iter(self._next.popleft())


@dataclass
class Running:
    """Batches that are read and copied to the device ahead, epoch after epoch.

    Attributes:
        order: arguments that all epochs have in common.
        epoch: the one whose batches come next.
        staged: all batches; closing it ends the reading.
        capacity: bytes that a batch of a following epoch may take; half the ring, so that two fit.
        batches: their number, for each epoch that is planned and not yet handed out.
    """

    order: tuple[int, ...]
    epoch: int
    shares: FollowingShares
    capacity: int
    staged: Generator[Batch, None, None]
    batches: dict[int, int] = field(default_factory=dict)

    def gives(self, order: tuple[int, ...], epoch: int) -> bool:
        """Whether this epoch's first batch comes next."""
        return (order, epoch) == (self.order, self.epoch) and epoch in self.batches
