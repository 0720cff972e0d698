"""One block of memory for all batches in flight, allocated and freed in order."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from maris_fast.data_shards.stream.pages import fresh_pages

_ALIGN = 4096


@dataclass
class Slot:
    """A batch's bytes in the ring."""

    memory: Tensor
    """Uint8 [size]."""
    start: int
    stop: int
    released: bool = False


class Arena(Protocol):
    """Allocates memory for batches."""

    def reserve(self, size: int) -> Slot | None: ...
    def release(self, slot: Slot) -> None: ...


class ByteRing:
    """First in, first out: slots of any size, each contiguous. Not thread-safe without a lock.

    Args:
        capacity: bytes; rounded up to whole pages.
        pinned: page-locked, so that copies to a GPU are asynchronous.
    """

    def __init__(self, capacity: int, *, pinned: bool) -> None:
        self.capacity = _aligned(capacity)
        if pinned:
            self._memory = torch.empty(self.capacity, dtype=torch.uint8, pin_memory=True)
        else:
            self._memory = torch.frombuffer(fresh_pages(self.capacity), dtype=torch.uint8)
        self._live: deque[Slot] = deque()

    def reserve(self, size: int) -> Slot | None:
        """A slot of ``size`` bytes; None while there is no room for it.

        Raises:
            ValueError: it would not fit an empty ring.
        """
        size = _aligned(size)
        if size > self.capacity:
            raise ValueError(f"{size} bytes in a ring of {self.capacity}")
        start = self._room(size)
        if start is None:
            return None
        slot = Slot(self._memory[start : start + size], start, start + size)
        self._live.append(slot)
        return slot

    def release(self, slot: Slot) -> None:
        """Release a slot, in any order; bytes become free in the order in which slots were reserved."""
        slot.released = True
        while self._live and self._live[0].released:
            self._live.popleft()

    def clear(self) -> None:
        """Free all slots, including those of batches that will not be consumed."""
        self._live.clear()

    def _room(self, size: int) -> int | None:
        if not self._live:
            return 0
        head, tail = self._live[-1].stop, self._live[0].start
        if head <= tail:  # the live slots wrap around the end
            return head if head + size <= tail else None
        if head + size <= self.capacity:
            return head
        return 0 if size <= tail else None


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
