"""Threads that fill the ring: one image per job, batches in the order of the plan."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from maris_fast.config import ReadingSettings
from maris_fast.data_shards.cache.manifest import ANNOTATION
from maris_fast.data_shards.stream.bad_samples import BadSamples, kept
from maris_fast.data_shards.stream.layout import Layout, Layouts
from maris_fast.data_shards.stream.ring import Arena, Slot
from maris_fast.data_shards.stream.shard_reader import SplitShards
from maris_fast.data_shards.stream.step_order import Group, Share
from maris_fast.errors import InputError

_LOOK_SECONDS = 0.5
_LEAVE_SECONDS = 1.0


@dataclass
class StoredBatch:
    """A batch as stored in its shards, in a slot of the ring."""

    share: Share
    layout: Layout
    memory: Tensor
    """Uint8 [layout.size]."""
    slot: Slot | None
    """None: the batch has memory of its own."""
    annotations: list[bytearray]
    """JSON of each image; not in the ring, as it outlives the slot."""
    missing: int
    bad: dict[int, InputError] = field(default_factory=dict)
    """Errors by image."""
    error: BaseException | None = None


@dataclass
class _Reading:
    """What a thread is reading; ``since`` is its last sign of life."""

    image: int
    since: float


class Pipeline:
    """Batches of ``shares`` in order, as stored in the shards.

    A batch's bytes are valid until ``release``. Iterate in one thread; ``stop`` may be called from any.

    Args:
        shares: of one rank, in the order of the plan.
        shards: to read from.
        layouts: of the same split.
        ring: memory for the batches in flight; it must not be used elsewhere before ``stop`` returns True.
        bad: images that could not be read.
        settings: batches ahead, stall timeout, how bad samples are handled.
        threads: number of reader threads.
        configured: whether a user can change the settings, so that messages name them.

    Raises:
        InputError: when its batch is due: a group that cannot be read, one more unreadable group than
            allowed, or a read that does not return.
    """

    def __init__(
        self,
        shares: Iterable[Share],
        shards: SplitShards,
        layouts: Layouts,
        ring: Arena,
        bad: BadSamples,
        settings: ReadingSettings,
        threads: int,
        *,
        configured: bool = True,
    ) -> None:
        self._shares = iter(shares)
        self._shards, self._layouts, self._ring, self._bad = shards, layouts, ring, bad
        self._settings, self._configured = settings, configured
        self._annotation = shards.members.index(ANNOTATION)
        self._smallest_first = np.argsort(layouts.slot_bytes).tolist()
        self._changed = threading.Condition()
        self._next: Share | None = None
        self._ended = self._stopped = False
        self._failure: BaseException | None = None
        self._jobs: deque[tuple[StoredBatch, int]] = deque()
        self._flying: deque[StoredBatch] = deque()
        self._reading: dict[int, _Reading] = {}
        self._threads = [
            threading.Thread(target=self._work, name=f"reader {number}", daemon=True)
            for number in range(threads)
        ]

    def __iter__(self) -> Iterator[StoredBatch]:
        for thread in self._threads:
            thread.start()
        while (batch := self._take()) is not None:
            yield batch

    def release(self, batch: StoredBatch) -> None:
        """Release a batch whose bytes are no longer needed."""
        with self._changed:
            if batch.slot is not None:
                self._ring.release(batch.slot)
            self._changed.notify_all()

    def stop(self) -> bool:
        """End the threads and wake up a consumer that waits for a batch.

        Returns whether all threads have ended: one that hangs in a read may still write to the ring.
        """
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        latest = time.monotonic() + _LEAVE_SECONDS
        for thread in self._threads:
            if thread.is_alive():
                thread.join(max(0.0, latest - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # The consumer

    def _take(self) -> StoredBatch | None:
        stall = self._settings.stall_seconds
        with self._changed:
            looked = watched = time.monotonic()
            while not self._stopped:
                if self._flying and not self._flying[0].missing:
                    batch = self._flying.popleft()
                    self._changed.notify_all()
                    if batch.error is not None:
                        raise batch.error
                    return batch
                if not self._flying and self._failure is not None:
                    raise self._failure
                if not self._flying and self._ended:
                    return None
                now = time.monotonic()
                if now - looked > stall / 2:
                    watched = now  # this process was suspended, and its reads with it
                looked = now
                self._look_for_a_stall(now, watched)
                self._changed.wait(min(_LOOK_SECONDS, stall / 4))
        return None

    def _look_for_a_stall(self, now: float, watched: float) -> None:
        """Raise InputError if a read has been silent for too long since ``watched``."""
        for reading in self._reading.values():
            silent = now - max(reading.since, watched)
            if silent > self._settings.stall_seconds:
                longer = f", or raise data.stall_seconds ({self._settings.stall_seconds:g})"
                raise InputError(
                    f"{self._shards.where(reading.image)}: no answer for {silent:.0f} s; check its disk or "
                    f"network{longer if self._configured else ''}"
                )

    # The readers

    def _work(self) -> None:
        me = threading.get_ident()
        while (job := self._job(me)) is not None:
            batch, place = job
            error: BaseException | None = None
            try:
                self._read(batch, place, self._reading[me])
            except BaseException as raised:  # any error must reach the consumer
                error = raised
            with self._changed:
                del self._reading[me]
                self._done(batch, place, error)
                self._changed.notify_all()

    def _job(self, thread: int) -> tuple[StoredBatch, int] | None:
        with self._changed:
            while not self._stopped:
                if not self._jobs and self._failure is None:
                    try:
                        self._admit()
                    except BaseException as error:
                        self._failure = error
                        self._changed.notify_all()
                if self._jobs:
                    job = self._jobs.popleft()
                    batch, place = job
                    self._reading[thread] = _Reading(batch.share.groups[place].image, time.monotonic())
                    return job
                if self._over():
                    self._changed.notify_all()
                    return None
                self._changed.wait()
        return None

    def _over(self) -> bool:
        """Whether nothing will be read any more; a batch in flight may still have to be read again."""
        return (self._ended or self._failure is not None) and not any(one.missing for one in self._flying)

    def _read(self, batch: StoredBatch, place: int, reading: _Reading) -> None:
        def alive() -> None:
            reading.since = time.monotonic()

        whole = batch.memory.numpy().data
        members = [whole[start:stop] for start, stop in batch.layout.members[place]]
        members[self._annotation] = memoryview(batch.annotations[place])
        self._shards.read_into(reading.image, members, alive)

    # What is read next; under the lock

    def _admit(self) -> None:
        """Lay out the next batch, if there is room for it."""
        if self._ended or len(self._flying) >= self._settings.prefetch:
            return
        if self._next is None:
            self._next = next(self._shares, None)
            if self._next is None:
                self._ended = True
                self._changed.notify_all()
                return
        share = self._next
        groups = self._bad.without(share)
        if not groups:
            batch = self._in_memory_of_its_own(self._padding(share))
        else:
            if len(groups) < len(share.groups):
                share = kept(share, groups)
            layout = self._layouts.of(share)
            slot = self._ring.reserve(layout.size)
            if slot is None:
                return
            batch = StoredBatch(share, layout, slot.memory[: layout.size], slot, [], 0)
        self._next = None
        self._flying.append(batch)
        self._queue(batch)

    def _queue(self, batch: StoredBatch) -> None:
        """Queue every image of the batch, ahead of all others."""
        images = [group.image for group in batch.share.groups]
        sizes = self._shards.index.size[images, self._annotation].tolist()
        batch.annotations = [bytearray(size) for size in sizes]
        batch.missing, batch.bad = len(images), {}
        self._layouts.fill_tables(batch.share, batch.layout, batch.memory)
        self._jobs.extendleft((batch, place) for place in reversed(range(len(images))))
        self._changed.notify_all()

    def _done(self, batch: StoredBatch, place: int, error: BaseException | None) -> None:
        batch.missing -= 1
        if isinstance(error, InputError) and self._bad.skip:
            batch.bad[batch.share.groups[place].image] = error
        elif error is not None and batch.error is None:
            batch.error = error
        if batch.missing or batch.error is not None or not batch.bad:
            return
        try:
            for image, reason in batch.bad.items():
                self._bad.add(image, reason)
            self._read_without_the_bad(batch)
        except BaseException as raised:
            batch.error = raised

    def _read_without_the_bad(self, batch: StoredBatch) -> None:
        # Read again from the start: this is rare, and uses the same code as any batch.
        groups = self._bad.without(batch.share)
        if groups and batch.slot is not None:
            batch.share = kept(batch.share, groups)
            batch.layout = self._layouts.of(batch.share)
            batch.memory = batch.slot.memory[: batch.layout.size]
        else:
            other = self._in_memory_of_its_own(self._padding(batch.share))
            if batch.slot is not None:
                self._ring.release(batch.slot)
            batch.share, batch.layout, batch.memory, batch.slot = (
                other.share,
                other.layout,
                other.memory,
                None,
            )
        self._queue(batch)

    def _padding(self, share: Share) -> Share:
        """A share for a rank that lost all of its own: the smallest image that can be read."""
        readable = (image for image in self._smallest_first if image not in self._bad)
        image = next(readable, None)
        if image is None:
            raise InputError("no image of the split is left that can be read; see the messages above")
        return replace(share, groups=(Group(image, (0,)),), padding=True)

    def _in_memory_of_its_own(self, share: Share) -> StoredBatch:
        layout = self._layouts.of(share)
        return StoredBatch(share, layout, torch.empty(layout.size, dtype=torch.uint8), None, [], 0)
