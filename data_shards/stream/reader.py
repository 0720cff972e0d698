"""The single reader of a cache: batches for training and for evaluation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path

import numpy as np
import torch

from maris_fast.config import ReadingSettings, StoreAddress, Verify, cache_place
from maris_fast.data_shards.cache.annotation import Annotation
from maris_fast.data_shards.cache.manifest import MANIFEST, ShardEntry, read_manifest
from maris_fast.data_shards.cache.place import Files, files_of
from maris_fast.data_shards.stream.bad_samples import BadSamples
from maris_fast.data_shards.stream.batch import Batch
from maris_fast.data_shards.stream.device import DeviceStage, Tensors
from maris_fast.data_shards.stream.epochs import FollowingShares, Running
from maris_fast.data_shards.stream.kept_images import KeptImages
from maris_fast.data_shards.stream.layout import Layouts
from maris_fast.data_shards.stream.open_shards import LocalFiles, ShardFiles
from maris_fast.data_shards.stream.pipeline import Pipeline, StoredBatch
from maris_fast.data_shards.stream.prefetch import prefetch
from maris_fast.data_shards.stream.ring import ByteRing
from maris_fast.data_shards.stream.shard_reader import SplitShards, read_indexes, require_shards
from maris_fast.data_shards.stream.staging import StagedFiles, fetch_head
from maris_fast.data_shards.stream.step_order import (
    Group,
    Share,
    epoch_steps,
    evaluation_steps,
    padding_share,
    share,
    steps_per_epoch,
)
from maris_fast.data_shards.stream.store_shards import StoreFiles
from maris_fast.errors import ConfigError, InputError
from maris_fast.sample import Sample

log = logging.getLogger(__name__)

EVALUATED_AT_ONCE = 64
"""Expressions of an evaluation batch: enough to occupy a GPU, with few images in memory."""
_STAGED = 1  # batches on the device that the consumer has not asked for yet


class CacheReader:
    """One split of a feature cache.

    Args:
        place: folder or address that ``write_cache`` wrote.
        split: one of the cache's splits.
        settings: how the cache is read; None: by default, and messages name no setting to change.
        device: of the batches.
        dtype: of their features and words.

    Attributes:
        shards, layouts: of the split; a ``Pipeline`` of them yields batches as they are stored.
        bad_samples: images that this process could not read and skipped (``data.on_bad_sample``).

    Raises:
        InputError: no cache, no such split, or shards and indexes that do not belong together.
    """

    def __init__(
        self,
        place: str | PathLike[str] | StoreAddress,
        split: str,
        settings: ReadingSettings | None = None,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.place = cache_place(place)
        self.split = split
        self.settings = settings or ReadingSettings()
        self._configured = settings is not None
        files = files_of(self.place, self.settings.stall_seconds, configured=self._configured)
        head = self._head(files)
        self.manifest = read_manifest(head)
        entry = self.manifest.of_split(split, self.place)
        if not entry.images:
            raise InputError(f"split {split!r} of the cache {self.place} has no images")
        shards = self._shards(files, entry.shards)
        self.index = read_indexes(head, entry.shards, self.manifest, self.settings.requests)
        self.shards = SplitShards(
            shards,
            self.index,
            [shard.images for shard in entry.shards],
            self.manifest,
            self._verify(),
        )
        self.layouts = Layouts(self.index, self.manifest)
        self._stage = DeviceStage(torch.device(device), dtype)
        self._pinned = torch.device(device).type == "cuda"
        self._ring: ByteRing | None = None
        self._ahead: Running | None = None
        self._pipelines: set[Pipeline] = set()
        self.bad_samples = BadSamples(self.settings)

    @property
    def images(self) -> int:
        return self.index.images

    @property
    def expressions(self) -> int:
        return len(self.index.words)

    @property
    def channels(self) -> int:
        """C_v, of each level."""
        return self.manifest.channels

    @property
    def text_channels(self) -> int:
        """C'."""
        return self.manifest.text_channels

    def close(self) -> None:
        """End all reading, including that of iterators that were not closed."""
        self._end_ahead()
        for pipeline in [*self._pipelines]:
            pipeline.stop()
        self.shards.close()

    def __enter__(self) -> CacheReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def steps_per_epoch(self, expressions_per_step: int) -> int:
        """Number of optimiser steps in any epoch, at any world size."""
        return steps_per_epoch(
            self.index.grids, self._expression_counts, expressions_per_step=expressions_per_step
        )

    def batches(
        self,
        *,
        seed: int,
        epoch: int,
        expressions_per_step: int,
        expressions_per_image: int,
        rank: int = 0,
        world: int = 1,
        accumulation: int = 1,
        first_step: int = 0,
        last_epoch: int | None = None,
    ) -> Iterator[Batch]:
        """A rank's batches of one epoch, ``accumulation`` of them per step.

        The order is a function of seed and epoch; see ``epoch_steps``. Every rank gets the same number
        of batches.

        Args:
            seed: of the run.
            epoch: counted from 0.
            expressions_per_step: over all ranks and accumulated batches.
            expressions_per_image: K, the most expressions of an image in one group, see ``epoch_steps``.
            rank, world: the rank, and the number of ranks.
            accumulation: batches per step on each rank.
            first_step: skip the steps before this one, to resume within an epoch.
            last_epoch: epochs up to this one will be requested next, with the same arguments: the first
                batches of each are prepared while the one before ends. None: this epoch only.

        Raises:
            InputError: a shard that cannot be read, when its batch is due.
            ConfigError: a batch that ``data.buffer_bytes`` cannot hold; raised at once.
        """
        order = (seed, expressions_per_step, expressions_per_image, rank, world, accumulation)
        follows = last_epoch is not None and epoch < last_epoch
        running = self._ahead_with(order, epoch, first_step)
        if running is None:
            shares, count, largest = self._epoch(order, epoch, first_step)
            running = self._started(shares, self._fitting(shares, largest), order, epoch)
            running.batches[epoch] = count
        if follows:
            shares, count, largest = self._epoch(order, epoch + 1)
            if largest <= running.capacity and running.shares.follow(shares()):
                running.batches[epoch + 1] = count
        return self._handed_over(running, running.batches.pop(epoch))

    def evaluation_batches(
        self,
        *,
        rank: int = 0,
        world: int = 1,
        max_expressions: int = EVALUATED_AT_ONCE,
        swapped: bool = False,
    ) -> Iterator[Batch]:
        """Every expression once, in a fixed order, image groups unsplit; ranks take batches in turn.

        Every rank gets the same number of batches; the last may be padding with weight 0.

        Args:
            rank: the rank whose batches these are.
            world: number of ranks.
            max_expressions: per batch, unless one image has more.
            swapped: replace each expression's words by those of an expression for another object of the
                same image, and keep its target. A model that reads the sentence must then fail.
                Expressions of images with only one object are left out: see ``swappable``.
        """
        groups = [group for image in range(self.images) if (group := self._whole(image, swapped))]
        if not groups:
            return iter(())
        steps = evaluation_steps(self.index.grids, groups, max_expressions=max_expressions)
        rounds = -(-len(steps) // world)

        def shares() -> Iterator[Share]:
            for i in range(rank, rounds * world, world):
                yield share(steps[i], 0, 1) if i < len(steps) else padding_share(steps[0])

        largest = self._largest(share(step, 0, 1) for step in steps)
        running = self._started(shares, self._fitting(shares, largest))
        return self._handed_over(running, rounds)

    def swappable(self) -> tuple[int, int]:
        """Numbers of expressions that ``evaluation_batches(swapped=True)`` yields and leaves out."""
        kept = sum(len(group) for i in range(self.images) if (group := self._whole(i, swapped=True)))
        return kept, self.expressions - kept

    @property
    def _expression_counts(self) -> np.ndarray:
        return np.diff(self.index.expression_offset)

    def _rows(self, image: int) -> slice:
        start, stop = self.index.expression_offset[image : image + 2].tolist()
        return slice(start, stop)

    def _whole(self, image: int, swapped: bool) -> Group | None:
        """All of an image's expressions; if swapped, each with the words of the next for another object.

        None if swapped and the image has only one object.
        """
        objects = self.index.object[self._rows(image)].tolist()
        every = tuple(range(len(objects)))
        if not swapped:
            return Group(image, every)
        if len(set(objects)) == 1:
            return None
        return Group(image, every, words_of=tuple(_next_of_another(objects, place) for place in every))

    @property
    def _far(self) -> bool:
        """Whether the same bytes may be fetched a second time, and differ then."""
        return self.settings.shards is not None or isinstance(self.place, StoreAddress)

    def _verify(self) -> Verify:
        return "always" if self._far and self.settings.verify == "first" else self.settings.verify

    def _head(self, files: Files) -> Files:
        """Where manifest and indexes are."""
        url, staging = self.settings.shards, self.settings.staging
        if url is None or staging is None or not isinstance(files, Path) or (files / MANIFEST).is_file():
            return files
        return fetch_head(url, staging, self.split)

    def _shards(self, files: Files, entries: Sequence[ShardEntry]) -> ShardFiles:
        url, staging, most = self.settings.shards, self.settings.staging, self.settings.staging_bytes
        if url is not None and staging is not None:
            return StagedFiles(url, entries, staging, most)
        require_shards(files, entries, self.settings.requests)
        if isinstance(files, Path):
            return LocalFiles([files / entry.name for entry in entries])
        far = StoreFiles(files, entries)
        return far if staging is None else KeptImages(far, entries, self.manifest, staging, most)

    # From shares to batches

    def _epoch(
        self, order: tuple[int, ...], epoch: int, first_step: int = 0
    ) -> tuple[Callable[[], Iterator[Share]], int, int]:
        """A rank's shares of an epoch, their number, and an upper bound on the bytes of the largest."""
        seed, expressions_per_step, expressions_per_image, rank, world, accumulation = order
        steps = epoch_steps(
            self.index.grids,
            self._expression_counts,
            seed=seed,
            epoch=epoch,
            expressions_per_step=expressions_per_step,
            expressions_per_image=expressions_per_image,
        )
        parts = accumulation * world
        most = -(-expressions_per_step // parts) * int(self.layouts.slot_bytes.max())
        largest = min(most, int(steps.sums(self.layouts.slot_bytes).max(initial=0)))

        def shares() -> Iterator[Share]:
            for step in steps[first_step:]:
                for part in range(accumulation):
                    yield share(step, part * world + rank, parts)

        return shares, max(0, len(steps) - first_step) * accumulation, largest

    def _ahead_with(self, order: tuple[int, ...], epoch: int, first_step: int) -> Running | None:
        """The ``Running`` that already reads this epoch, if any; one that reads anything else is ended."""
        running = self._ahead
        if running is None or (running.gives(order, epoch) and not first_step):
            return running
        self._end_ahead()
        return None

    def _end_ahead(self) -> None:
        running, self._ahead = self._ahead, None
        if running is not None:
            running.staged.close()

    def _fitting(self, shares: Callable[[], Iterator[Share]], largest: int) -> int:
        """``largest``, or a tighter bound where it matters.

        Raises:
            ConfigError: a batch does not fit ``data.buffer_bytes``.
        """
        room = self.settings.buffer_bytes
        if 2 * largest > room:
            largest = self._largest(shares())
        if largest > room:
            raise ConfigError(
                f"a batch needs up to {largest:,} bytes, data.buffer_bytes is {room:,}; set it to "
                f"{2 * largest:,} or more, or lower data.expressions_per_step"
            )
        if 2 * largest > room:
            log.warning(
                "data.buffer_bytes = %s holds one batch only (up to %s bytes), so reading waits for each; "
                "set it to %s or more",
                f"{room:,}",
                f"{largest:,}",
                f"{2 * largest:,}",
            )
        return largest

    def _started(
        self,
        shares: Callable[[], Iterator[Share]],
        largest: int,
        order: tuple[int, ...] = (),
        epoch: int = 0,
    ) -> Running:
        """Start a pipeline of batches, the largest of which takes ``largest`` bytes."""
        ring, self._ring = self._ring, None
        settings = self.settings
        # More than this is never in flight; another third of a batch may be lost at the ring's end.
        wanted = min(settings.buffer_bytes, (settings.prefetch + 2) * largest)
        if ring is None or ring.capacity < wanted:
            ring = ByteRing(wanted, pinned=self._pinned)
        following = FollowingShares(shares())
        threads = settings.requests if isinstance(self.place, StoreAddress) else settings.reader_threads
        pipeline = Pipeline(
            following,
            self.shards,
            self.layouts,
            ring,
            self.bad_samples,
            settings,
            threads,
            configured=self._configured,
        )
        self._pipelines.add(pipeline)

        def staged() -> Iterator[Batch]:
            for stored in pipeline:
                tensors = self._stage(stored.memory, stored.layout)
                pipeline.release(stored)
                yield self._batch(stored, tensors)

        def stop() -> None:
            self._pipelines.discard(pipeline)
            # A thread that hangs in a read may still write into the ring, which is then not reused.
            if pipeline.stop():
                ring.clear()
                self._ring = ring

        return Running(order, epoch, following, ring.capacity // 2, prefetch(staged(), _STAGED, stop))

    def _handed_over(self, running: Running, count: int) -> Iterator[Batch]:
        """The next ``count`` batches of ``running``, which continues with the following epoch, if any."""
        left = count
        self._ahead = None
        try:
            for batch in islice(running.staged, count):
                left -= 1
                self._stage.hand_over(batch)
                yield batch
            if left:
                raise RuntimeError("another epoch was asked for before the batches of this one were taken")
        finally:
            if not left and running.batches:
                running.epoch += 1
                self._ahead = running
            else:
                running.staged.close()

    def _largest(self, shares: Iterable[Share]) -> int:
        """Bytes that the largest of these shares takes in the ring."""
        bytes_of = self.layouts.slot_bytes
        return max((sum(int(bytes_of[group.image]) for group in one.groups) for one in shares), default=0)

    def _batch(self, stored: StoredBatch, tensors: Tensors) -> Batch:
        share, annotations = stored.share, stored.annotations

        def describe() -> tuple[Sample, ...]:
            samples: list[Sample] = []
            for group, content in zip(share.groups, annotations, strict=True):
                where = self.shards.where(group.image)
                one = Annotation.read(content, self.index, group.image, where)
                samples += one.record.samples(
                    one.geometry, one.tokens, places=group.expressions, words_of=group.words_of
                )
            return tuple(samples)

        return Batch(
            **tensors,
            step_expressions=share.step_expressions,
            describe=describe,
            padding=share.padding,
        )


def _next_of_another(objects: list[int], start: int) -> int:
    """The first expression after ``start``, wrapping around, that refers to another object."""
    places = [*range(start + 1, len(objects)), *range(start)]
    return next(place for place in places if objects[place] != objects[start])
