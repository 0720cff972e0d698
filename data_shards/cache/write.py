"""From an imported data set to a feature cache: run the frozen encoders once, store their outputs.

Shards are planned first (``shard_plan``); then any number of processes each write the missing shards of their
share. The process that finds all shards complete writes the manifest. So a stopped run resumes where it was.
"""

from __future__ import annotations

import errno
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maris_fast.config import CacheSettings, StoreAddress, cache_place
from maris_fast.data_shards.cache.destination import Destination, destination_of, free_bytes
from maris_fast.data_shards.cache.group import EncodedGroup
from maris_fast.data_shards.cache.manifest import (
    CacheHead,
    CacheManifest,
    ShardPlan,
    SplitEntry,
    Writing,
    WrittenWith,
)
from maris_fast.data_shards.cache.mask_targets import mask_target
from maris_fast.data_shards.cache.photographs import Photographs
from maris_fast.data_shards.cache.shard_plan import plan_split
from maris_fast.data_shards.cache.shared_plan import SharedPlan, planned_once
from maris_fast.data_shards.cache.usable import Checking, without
from maris_fast.data_shards.cache.workers import Worker
from maris_fast.data_shards.importers.left_out import LeftOutRow
from maris_fast.data_shards.records import ImageRecord, ImportedDataset
from maris_fast.encoders import EncodersProvenance, SamEncoder, TextEncoder
from maris_fast.errors import InputError
from maris_fast.geometry import ImageGeometry
from maris_fast.system.devices import fitting, place, share_cores
from maris_fast.system.files import sha256_of
from maris_fast.system.progress import counting

DECODERS = 4
"""Threads that decode and resize images ahead of the encoder."""

_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def _targets_of(record: ImageRecord, geometry: ImageGeometry) -> NDArray[np.bool_]:
    """[targets, 4h, 4w]."""
    targets = []
    for target in record.targets:
        try:
            pixels = target.mask.decode()
        except ValueError as error:
            raise InputError(
                f"{record.image}: the mask of ref {target.ref_id} cannot be decoded, {error}; the data set's "
                "files have changed since `maris-fast import`: import it again"
            ) from error
        targets.append(mask_target(pixels, geometry))
    return np.stack(targets)


def write_cache(
    dataset: Path,
    out: str | PathLike[str] | StoreAddress,
    settings: CacheSettings,
    splits: Sequence[str] | None = None,
    *,
    worker: Worker | None = None,
    leave_out_bad: bool = False,
    progress: bool = True,
    scratch: Path | None = None,
) -> CacheManifest | None:
    """Encode an imported data set into shards under ``out``, or resume where an earlier run was stopped.

    Args:
        dataset: folder of the imported data set.
        out: new or empty folder, or one begun with the same settings; or an s3:// or gs:// address.
        settings: encoders, stored dtype, shard size, device.
        splits: which splits; None for all.
        worker: which share of the shards; None for all.
        leave_out_bad: leave out, count and list what the encoders cannot process, instead of raising.
        progress: show a bar with rate and time left.
        scratch: for an address, local folder where each process writes a shard before it is uploaded; by
            default the system's temporary folder.

    Returns:
        The manifest, with counts per split, including truncated expressions. None while shards of other
        workers are missing.

    Raises:
        InputError: ``out`` is neither empty nor a cache of these settings, a split does not exist, images or
            expressions cannot be used (all reported together, and found as far as possible before the first
            image is encoded), or a disk is full.
        CheckpointError, ConfigError: from the encoders; an address that cannot be written to.
        StoreError: the server does not accept a file; the same call resumes from there.
    """
    job = CacheJob(
        dataset,
        out,
        settings,
        splits,
        worker=worker,
        leave_out_bad=leave_out_bad,
        progress=progress,
        scratch=scratch,
    )
    return job.write()


@dataclass(frozen=True)
class Outlook:
    """What is planned and what of it is missing, before writing starts.

    Attributes:
        seconds_an_image: of one worker; None unless a batch was encoded to measure it.
        workers: how many share the work.
    """

    out: str
    writing: Writing
    missing: tuple[ShardPlan, ...]
    free_bytes: int
    seconds_an_image: float | None
    workers: int

    @property
    def missing_bytes(self) -> int:
        return _bytes(self.missing)


class CacheJob:
    """A planned cache that is not, or not completely, written; arguments as for ``write_cache``.

    Args:
        counting: shows the progress of planning and of encoding.

    Raises:
        InputError, CheckpointError, ConfigError: see ``write_cache``.
    """

    def __init__(
        self,
        dataset: Path,
        out: str | PathLike[str] | StoreAddress,
        settings: CacheSettings,
        splits: Sequence[str] | None = None,
        *,
        worker: Worker | None = None,
        leave_out_bad: bool = False,
        progress: bool = True,
        scratch: Path | None = None,
        counting: Callable[..., AbstractContextManager[Callable[[], None]]] = counting,
    ) -> None:
        self.out = destination_of(cache_place(out), scratch)
        self.out.require_ours()
        self.worker = worker or Worker()
        self._settings = settings
        self._leave_out_bad = leave_out_bad
        self._newly_left_out: list[LeftOutRow] = []
        self._progress, self._counting = progress and self.worker.first, counting
        self._source = ImportedDataset(dataset)
        if settings.images is not None:
            self._source.info = self._source.info.model_copy(
                update={"image_root": _absolute(settings.images)}
            )
        chosen = _chosen_splits(self._source, splits)
        if self.worker.local_world > 1:
            share_cores(self.worker.local_world)
        device, precision = place(settings.device, settings.precision, self.worker.local_rank)
        if device.type == "cuda":
            torch.cuda.set_device(device.index or 0)  # pinned memory belongs to the current device
        self._sam = SamEncoder(settings.encoders.sam, device, precision)
        self._text = TextEncoder(settings.encoders.text, device)
        self.writing = self._begun(self._head(chosen, device, precision))

    @property
    def plan(self) -> tuple[ShardPlan, ...]:
        return self.writing.plan

    @cached_property
    def missing(self) -> tuple[ShardPlan, ...]:
        """Shards of the plan that were missing at the first access."""
        return self._missing_now()

    def _missing_now(self) -> tuple[ShardPlan, ...]:
        whole = self.out.whole()
        return tuple(shard for shard in self.plan if not whole(shard))

    @property
    def share(self) -> tuple[ShardPlan, ...]:
        """All shards that this worker is responsible for."""
        return self.plan[self.worker.rank :: self.worker.world]

    def outlook(self, *, estimate: bool) -> Outlook:
        """What to report before the work begins; ``estimate`` encodes a batch."""
        seconds = self._seconds_an_image() if estimate and self.missing else None
        free = self.free_bytes()
        return Outlook(str(self.out), self.writing, self.missing, free, seconds, self.worker.world)

    def written(self) -> int:
        """Number of shards that are complete now."""
        return len(self.plan) - len(self._missing_now())

    def _check_room(self) -> None:
        # Both are determined again, as other workers may have been writing for a while.
        needed = self.out.bytes_needed(self._missing_now(), self.worker.local_world)
        if needed > (free := self.free_bytes()):
            raise InputError(
                f"{self.out.folder} needs {needed / 1e9:,.2f} GB more and its disk has {free / 1e9:,.2f} GB "
                f"free; {self.out.too_small(self._settings.feature_dtype)}"
            )

    def free_bytes(self) -> int:
        """Bytes available for this cache: free on the disk, or taken by half-written shards."""
        return free_bytes(self.out.folder)

    def _seconds_an_image(self) -> float:
        """Seconds per image of this worker, measured by encoding the plan's first images as one batch.

        On a GPU the batch is encoded once before, as the first time loads kernels.
        """
        first = self.plan[0]
        count = min(first.images, self._settings.batch_size)
        for _ in range(2 if self._sam.device.type == "cuda" else 1):
            began = time.monotonic()
            for group in self._groups(first, count):
                group.levels[0].sum().item()  # waits for the device
            seconds = time.monotonic() - began
        return seconds / count

    def write(self) -> CacheManifest | None:
        """Write this worker's missing shards, and the manifest if no shard is missing afterwards.

        Raises:
            InputError: a disk that is too small or full, an image that cannot be decoded, a shard that
                another process writes.
        """
        self.announce()
        missing = {shard.name for shard in self.missing}
        todo = [shard for shard in self.share if shard.name in missing]
        images = sum(shard.images for shard in self.share)
        done = images - sum(shard.images for shard in todo)
        what = "encode" if self.worker.world == 1 else f"encode, 1 of {self.worker.world} shares"
        with self._counting(what, images, done, shown=self._progress) as advance:
            for shard in todo:
                self.write_shard(shard, advance)
        return self.finish()

    def announce(self) -> None:
        """Announce what will be written, or adopt what another process announced; raises as ``write``."""
        self._check_room()
        with self._full_disk_named():
            self.out.announce(self._chosen)

    def write_shard(self, shard: ShardPlan, advance: Callable[[], None]) -> None:
        """Write one shard of the plan, calling ``advance`` after each image; raises as ``write``."""
        groups = _each(self._groups(shard, shard.images), advance)
        with self._full_disk_named():
            self.out.write(shard, groups, self.writing.head, ahead=self._settings.batch_size)

    def finish(self) -> CacheManifest | None:
        """Write the manifest if no shard is missing; raises as ``write``."""
        if self._missing_now():
            return None
        manifest = CacheManifest(**dict(self.writing.head), splits=self._entries()).sealed()
        with self._full_disk_named():
            self.out.finish(manifest)
        return manifest

    @contextmanager
    def _full_disk_named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in _DISK_FULL:
                raise
            raise InputError(
                f"no room for {self.out.folder}: {error.strerror}; {self.written()} of {len(self.plan)} "
                "shards are written. Make room on that disk and run the same command again"
            ) from error

    def _groups(self, shard: ShardPlan, count: int) -> Iterator[EncodedGroup]:
        left_out = self.writing.head.left_out.get(shard.split, {})
        every = self._source.records(shard.split, shard.first_byte)
        records = (left for record in every if (left := without(record, left_out)) is not None)
        photographs = Photographs(self._source.info.image_root)
        return encode_groups(
            islice(records, count), photographs, self._sam, self._text, self._settings.batch_size
        )

    def _head(self, splits: Sequence[str], device: torch.device, precision: torch.dtype) -> CacheHead:
        settings, source = self._settings, self._source
        encoders = EncodersProvenance(sam=self._sam.provenance, text=self._text.provenance)
        kind: Literal["cpu", "cuda"] = "cuda" if device.type == "cuda" else "cpu"
        return CacheHead(
            dataset=source.info,
            encoders=encoders,
            encoder_settings=settings.encoders,
            feature_dtype=settings.feature_dtype,
            channels=self._sam.channels,
            text_channels=self._text.channels,
            written_with=WrittenWith(
                records_sha256={split: sha256_of(source.path(split)) for split in splits},
                shard_bytes=settings.shard_bytes,
                batch_size=settings.batch_size,
                device=kind,
                precision="fp32" if precision == torch.float32 else "bf16",
            ),
        )

    def _planned(self, head: CacheHead, *, leave_out_bad: bool) -> Writing:
        plan = planned_once(
            self._source.folder, head, leave_out_bad, lambda: self._made(head, leave_out_bad=leave_out_bad)
        )
        self._newly_left_out = list(plan.newly_left_out)
        return plan.writing

    def _made(self, head: CacheHead, *, leave_out_bad: bool) -> SharedPlan:
        splits = list(head.written_with.records_sha256)
        checking = Checking(self._source, self._sam, self._text, head.left_out)
        shards: list[ShardPlan] = []
        images = sum(self._source.info.splits[split].images for split in splits)
        with self._counting("check", images, shown=self._progress) as advance:
            for split in splits:
                shards += plan_split(
                    self._source,
                    split,
                    checking,
                    head,
                    advance,
                )
        info, left_out = checking.settle(head.dataset, splits, leave_out_bad=leave_out_bad)
        if left_out:
            head = head.model_copy(update={"dataset": info, "left_out": checking.left_out})
        writing = Writing(head=head, plan=tuple(shards))
        return SharedPlan(
            writing=writing,
            newly_left_out=tuple(left_out),
            seen=checking.seen,
            unusable_afar=tuple(checking.unusable_afar),
        )

    def _begun(self, head: CacheHead) -> Writing:
        """The plan of this cache that an earlier or another process made, else a new one."""
        if (manifest := self.out.manifest()) is not None:
            # Complete, unless a shard was deleted since: it is written again, with the same content.
            _require_same(self.out, manifest, head)
            return self._planned(_head_of(manifest), leave_out_bad=False)
        return self._announced(head, self.out.writing()) or self._planned(
            head, leave_out_bad=self._leave_out_bad
        )

    def _announced(self, head: CacheHead, writing: Writing | None) -> Writing | None:
        if writing is not None:
            _require_same(self.out, writing.head, head)
        return writing

    def _chosen(self, there: Writing | None) -> Writing:
        # The first announcement counts for all: paths may differ from machine to machine.
        if (announced := self._announced(self.writing.head, there)) is not None:
            self.writing = announced
        elif self._newly_left_out:
            self.out.list_left_out(self._newly_left_out)
        return self.writing

    def _entries(self) -> dict[str, SplitEntry]:
        splits = self.writing.head.written_with.records_sha256
        by_split: dict[str, list[ShardPlan]] = {split: [] for split in splits}
        for shard in self.plan:
            by_split[shard.split].append(shard)
        return {split: self.out.split_entry(shards) for split, shards in by_split.items()}


@dataclass(frozen=True)
class _Prepared:
    """An image, prepared as far as possible without an encoder."""

    record: ImageRecord
    geometry: ImageGeometry
    pixels: Tensor
    targets: NDArray[np.bool_]


def encode_groups(
    records: Iterable[ImageRecord],
    photographs: Photographs,
    sam: SamEncoder,
    text: TextEncoder,
    batch_size: int,
) -> Iterator[EncodedGroup]:
    """Image groups with their features, in the order of the records; threads prepare two batches ahead.

    Raises:
        InputError: an image or a mask that cannot be decoded.
    """

    def prepare(record: ImageRecord) -> _Prepared:
        image = photographs.load(record)
        geometry = sam.grid(record.height, record.width)
        return _Prepared(record, geometry, sam.resize(image), _targets_of(record, geometry))

    waiting = iter(records)
    with ThreadPoolExecutor(DECODERS, thread_name_prefix="decode") as threads:
        ahead: deque[Future[_Prepared]] = deque()
        try:
            while True:
                while len(ahead) < 3 * batch_size and (record := next(waiting, None)) is not None:
                    ahead.append(threads.submit(prepare, record))
                batch = [ahead.popleft().result() for _ in range(min(batch_size, len(ahead)))]
                if not batch:
                    return
                yield from _encoded(batch, sam, text)
        finally:
            for future in ahead:
                future.cancel()


def _encoded(batch: Sequence[_Prepared], sam: SamEncoder, text: TextEncoder) -> Iterator[EncodedGroup]:
    """
    Raises:
        MemoryShortageError: the batch does not fit in the GPU's memory.
    """
    free = "end what else uses the GPU (nvidia-smi), or set device=cpu"
    with fitting(f"set batch_size below {len(batch)}" if len(batch) > 1 else free):
        features = sam.encode_resized([one.pixels for one in batch])
        words = iter(text.encode([each.text for one in batch for each in one.record.expressions]))
    for one, levels in zip(batch, features, strict=True):
        expressions = tuple(islice(words, len(one.record.expressions)))
        yield EncodedGroup(one.record, one.geometry, levels, expressions, one.targets)


def _each(groups: Iterator[EncodedGroup], advance: Callable[[], None]) -> Iterator[EncodedGroup]:
    for group in groups:
        yield group
        advance()


def _absolute(place: Path | StoreAddress) -> str:
    return str(place.resolve() if isinstance(place, Path) else place)


def _bytes(shards: Iterable[ShardPlan]) -> int:
    return sum(shard.bytes + shard.index_bytes for shard in shards)


def _require_same(out: Destination, there: CacheHead, wanted: CacheHead) -> None:
    if differences := there.differences(wanted):
        raise InputError(
            f"{out} holds a cache made with other settings than these: {'; '.join(differences)}. Run the "
            "command that began it, or name a new folder"
        )


def _head_of(manifest: CacheManifest) -> CacheHead:
    return CacheHead(**{name: getattr(manifest, name) for name in CacheHead.model_fields})


def _chosen_splits(source: ImportedDataset, splits: Sequence[str] | None) -> list[str]:
    known = source.info.splits
    for split in splits or ():
        source.path(split)
    return list(dict.fromkeys(splits or known))
