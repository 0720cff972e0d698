"""Readers on the same features: raw bytes, ours, and the strongest of other ways to store and read them.

    python -m maris_fast.bench.reading

Synthetic groups of ViT-H's size (three int8 maps of 64 x 48 x 1280, 11.8 MB) are written by the writer of
real caches, and in the format of each peer (``reading_peers``); one that is not installed, or fails, is
listed with the reason. Situations: a warm page cache; a cold one, for those whose pages were really dropped;
and next to a training step of known length that keeps a core busy. Each round runs the ways in turn; ratios
are medians over rounds of times within one round. How each reacts to a flipped byte and a truncated file is
tested on small copies. On a GPU there are two more ways, which end there: from an unpinned ring, and from a
pinned one.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import get_context
from pathlib import Path
from threading import Thread

import numpy as np
import torch

from maris_fast.bench.conditions import gpu_conditions
from maris_fast.bench.fake_cache import write_fake_cache, write_hollow_cache
from maris_fast.bench.measuring import in_turn, paired, seconds_of
from maris_fast.bench.page_cache import drop, resident
from maris_fast.bench.reading_names import BUSY, COLD, OURS, RAW_TWO, WARM
from maris_fast.bench.reading_peers import PEERS, STOCK, TAR, written
from maris_fast.bench.results import BENCH, Row, Suite
from maris_fast.config import ReadingSettings
from maris_fast.data_shards.scaling import PLAN_RATES
from maris_fast.data_shards.stream import CacheReader
from maris_fast.data_shards.stream.device import DeviceStage
from maris_fast.data_shards.stream.epochs import FollowingShares
from maris_fast.data_shards.stream.pipeline import Pipeline
from maris_fast.data_shards.stream.ring import Arena, ByteRing, Slot
from maris_fast.data_shards.stream.step_order import Epoch, Share, epoch_steps, share
from maris_fast.train.environment import environment
from maris_fast.train.ranks import Ranks

STEP, EACH = 64, 8
RAW = "raw preadv, one thread"
IMAGES_A_STEP = 9
"""About as many as 64 expressions refer to."""
STEP_SECONDS, BUSY_EPOCHS = 0.035, 3
COLD_SHARE = 0.01
"""Share of pages that may still be in the page cache for a reading to count as cold."""
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Way:
    """A contestant.

    Attributes:
        steps: reads a number of epochs, yielding an item when a step's images have been read.
        folder: where its files are.
        situations: those in which it is measured.
    """

    name: str
    steps: Callable[[int], Iterator[object]]
    folder: Path
    situations: tuple[str, ...] = (WARM, COLD, BUSY)

    @property
    def files(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.is_file())


class FreshMemory:
    """Allocates memory for every batch, which the ring avoids."""

    def reserve(self, size: int) -> Slot:
        return Slot(torch.empty(size, dtype=torch.uint8), 0, size)

    def release(self, slot: Slot) -> None:
        pass


def main() -> None:
    def rows_of(cache: Path, rounds: int) -> list[Row]:
        return [*all_rows(cache, rounds), start_up(cache.with_name("hollow"), 100_000)]

    rows = run_suite("reading", __doc__, rows_of, images=60, device=DEVICE)
    for row in rows[:-1]:
        if "gb_per_s" in row:
            print(
                f"{row['situation']:24} {row['way']:48} {row['gb_per_s']:6.2f} GB/s  "
                f"{row['to_ours']:5.2f} x ours {row['to_stock']:5.1f} x stock"
            )
        else:
            print(row)
    print(rows[-1])


def run_suite(
    name: str,
    about: str | None,
    rows_of: Callable[[Path, int], list[Row]],
    *,
    images: int,
    device: torch.device,
) -> list[Row]:
    """The rows that ``rows_of`` measures in a number of rounds on a fake cache; it may write next to it.

    Parses the command line, saves the suite and removes what was written.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=BENCH / "results")
    parser.add_argument("--images", type=int, default=images)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix=f"maris-{name.replace('_', '-')}-", dir=options.scratch))
    try:
        write_fake_cache(folder / "cache", options.images)
        rows = rows_of(folder / "cache", options.rounds)
    finally:
        shutil.rmtree(folder)
    print(Suite.now(name, environment(Ranks(device)), rows).save(options.out))
    return rows


def all_rows(cache: Path, rounds: int) -> list[Row]:
    """How each way reacts to damage, which ones are left out, and the measurements of the others."""
    small = cache.with_name("small")
    write_fake_cache(small / "cache", 2 * IMAGES_A_STEP, grids=[(16, 16)], channels=64)
    folders, reasons = written(small / "cache", small / "peers")
    damaged = {way.name: damage(way) for way in ways(folders)}
    rows: list[Row] = [{"way": name, **found} for name, found in damaged.items()]
    rows += [{"way": form, "left_out": why} for form, why in reasons.items()]
    folders, _ = written(cache, cache.with_name("peers"))
    sound = [way for way in ways(folders) if "left_out" not in damaged[way.name]]
    for situation, count in {WARM: rounds, COLD: max(3, rounds // 2), BUSY: rounds}.items():
        rows += measured([way for way in sound if situation in way.situations], cache, count, situation)
    return rows


def measured(contestants: Sequence[Way], cache: Path, rounds: int, situation: str) -> list[Row]:
    """Time all in turn, ``rounds`` times; a way whose pages stay in the page cache gets no cold figure."""
    with CacheReader(cache, "train") as reader:
        images, total, expressions = reader.images, int(reader.index.size.sum()), reader.expressions
    epochs = BUSY_EPOCHS if situation == BUSY else 1
    left: dict[str, float] = {}

    def timed(way: Way) -> float:
        if situation == COLD:
            drop(way.files)
            left[way.name] = max(left.get(way.name, 0.0), resident(way.files))
        return seconds_of(partial(_taken, way, epochs, STEP_SECONDS if situation == BUSY else 0.0))

    with gpu_conditions(DEVICE) as of_gpu:
        seconds, load = in_turn({way.name: partial(timed, way) for way in contestants}, rounds)
    steps = sum(1 for _ in contestants[0].steps(1)) if situation == BUSY else 0
    rows: list[Row] = []
    for name, times in seconds.items():
        if left.get(name, 0.0) > COLD_SHARE:
            why = f"{left[name]:.0%} of its pages stayed in the page cache"
            rows.append({"way": name, "situation": situation, "left_out": why})
            continue
        row: Row = {
            "way": name,
            "situation": situation,
            "images": images,
            "rounds": rounds,
            "load_average": load,
            **of_gpu,
            "gb_per_s": epochs * total / statistics.median(times) / 1e9,
            "expressions_per_s": epochs * expressions / statistics.median(times),
            "to_ours": paired(seconds[OURS], times),
            "to_stock": paired(seconds[STOCK], times),
            "seconds": times,
        }
        if RAW_TWO in seconds:
            row["to_raw_two"] = paired(seconds[RAW_TWO], times)
        if situation == BUSY:
            row |= {
                "step_s": STEP_SECONDS,
                "of_pace": epochs * steps * STEP_SECONDS / statistics.median(times),
            }
        if situation == COLD and name == OURS:  # the rate at which our reader gets data from the disk
            shape = f"{OURS}, cold page cache, {images} groups of ViT-H's size"
            row |= {"shape": shape, PLAN_RATES: {"disk_GBps": row["gb_per_s"]}}
        rows.append(row)
    return rows


def _taken(way: Way, epochs: int, step_seconds: float) -> None:
    for _ in way.steps(epochs):
        _busy(step_seconds)


_BLOCK = bytes(1 << 20)


def _busy(seconds: float) -> None:
    """Keep a core busy for ``seconds`` without holding the GIL, like the operations of a training step."""
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        hashlib.sha256(_BLOCK)


def damage(way: Way) -> Row:
    """How a way reacts to a flipped byte in the middle of its largest file, and to the file cut off there.

    ``left_out``: it cannot read even the intact files.
    """
    largest = max(way.files, key=lambda path: path.stat().st_size)
    whole = largest.read_bytes()
    middle = len(whole) // 2
    count = _tried(way)
    if not count.isdecimal():
        return {"left_out": count.strip().splitlines()[-1]}
    flipped = whole[:middle] + bytes([whole[middle] ^ 64]) + whole[middle + 1 :]
    found = {}
    for what, content in {"flipped_byte": flipped, "cut_file": whole[:middle]}.items():
        largest.write_bytes(content)
        said = _tried(way)
        if said.isdecimal():
            found[what] = "goes unseen" if said == count else "images are missing, unseen"
        elif said in (HANGS, DIES):
            found[what] = said
        else:
            found[what] = "error with the file" if largest.name in said else "error"
    largest.write_bytes(whole)
    return found


HANGS, DIES = "hangs", "kills the process"
PATIENCE_SECONDS = 30.0


def _tried(way: Way) -> str:
    """Read an epoch in a process of its own: the number of its steps, or the error that it ends with."""
    forking = get_context("fork")
    here, there = forking.Pipe(duplex=False)

    def read() -> None:
        torch.set_num_threads(1)  # OpenMP's threads do not survive a fork
        try:
            there.send(str(sum(1 for _ in way.steps(1))))
        except BaseException as error:
            there.send(f"{type(error).__name__}: {error}")

    process = forking.Process(target=read)
    process.start()
    there.close()
    try:
        return str(here.recv()) if here.poll(PATIENCE_SECONDS) else HANGS
    except EOFError:
        return DIES
    finally:
        process.kill()
        process.join()


def start_up(folder: Path, images: int) -> Row:
    """Seconds from opening a cache to the first epoch's plan, on an index of ``images`` images."""
    write_hollow_cache(folder, images)
    took = []
    for _ in range(5):
        before, of_cpu = time.perf_counter(), time.process_time()
        with CacheReader(folder, "train") as reader:
            opened = time.perf_counter()
            reader.batches(seed=0, epoch=0, expressions_per_step=STEP, expressions_per_image=EACH)
            planned = time.perf_counter()
            took.append((opened - before, planned - opened, time.process_time() - of_cpu))
    opening, planning, cpu = (statistics.median(column) for column in zip(*took, strict=True))
    return {
        "way": "ours: start-up, index hashed and read, first epoch planned",
        "images": images,
        "open_s": opening,
        "plan_s": planning,
        "both_cpu_s": cpu,  # less affected by other work on the machine
        "load_average": os.getloadavg()[0],
    }


def ways(folders: dict[str, Path]) -> list[Way]:
    """All contestants on a cache in several formats, each in its folder."""
    cache = folders[TAR]
    plain = CacheReader(cache, "train")
    ring = ring_for(plain)
    order = [group.image for one in _shares(plain) for group in one.groups]

    def ours(
        threads: int,
        verify: str,
        *,
        memory: Arena = ring,
        stage: DeviceStage | None = None,
        ahead: bool = True,
    ) -> Callable[[int], Iterator[object]]:
        settings = ReadingSettings.model_validate({"reader_threads": threads, "verify": verify})
        reader = CacheReader(cache, "train", settings)

        def steps(epochs: int) -> Iterator[object]:
            if ahead:
                return _read(reader, memory, threads, stage, epochs)
            return (one for _ in range(epochs) for one in _read(reader, memory, threads, stage, 1))

        return steps

    def dequantised(epochs: int) -> Iterator[object]:
        with CacheReader(cache, "train") as reader:
            for epoch in range(epochs):
                yield from reader.batches(
                    seed=0,
                    epoch=epoch,
                    expressions_per_step=STEP,
                    expressions_per_image=EACH,
                    last_epoch=epochs - 1,
                )

    def raw(threads: int) -> Callable[[int], Iterator[object]]:
        def steps(_: int) -> Iterator[object]:
            _raw(cache, threads)
            yield None

        return steps

    def peer(
        images: Callable[[Path, Sequence[int]], Iterator[object]], folder: Path
    ) -> Callable[[int], Iterator[object]]:
        def steps(epochs: int) -> Iterator[object]:
            for _ in range(epochs):
                items = images(folder, order)
                while step := list(islice(items, IMAGES_A_STEP)):
                    yield step

        return steps

    found = [
        Way(one.name, peer(one.images, folders[one.form]), folders[one.form])
        for one in PEERS
        if one.form in folders
    ]
    own = {
        "ours: fresh memory, 1 thread, checksums never": ours(1, "never", memory=FreshMemory()),
        "ours: ring, 1 thread, checksums never": ours(1, "never"),
        "ours: ring, 2 threads, checksums never": ours(2, "never"),
        OURS: ours(2, "always"),
        "ours: the same, float32 on the CPU": dequantised,
    }
    if DEVICE.type == "cuda":
        stage = DeviceStage(DEVICE, torch.bfloat16)
        for pinned in (False, True):
            memory = ring_for(plain, pinned=pinned)
            name = f"ours: ring{', pinned' if pinned else ''}, 2 threads, bf16 on the GPU"
            own[name] = ours(2, "never", memory=memory, stage=stage)
    for name, steps in own.items():
        found.append(Way(name, steps, cache, (WARM, COLD, BUSY) if "2 threads" in name else (WARM, COLD)))
    found.append(Way("ours: the same, each epoch by itself", ours(2, "always", ahead=False), cache, (BUSY,)))
    found += [Way(RAW, raw(1), cache, (WARM, COLD)), Way(RAW_TWO, raw(2), cache, (WARM, COLD))]
    return found


def ring_for(reader: CacheReader, *, pinned: bool = False) -> ByteRing:
    """A ring as large as in training."""
    largest = max(
        sum(int(reader.layouts.slot_bytes[group.image]) for group in step.groups) for step in _epoch(reader)
    )
    return ByteRing((reader.settings.prefetch + 2) * largest, pinned=pinned)


def read_once(reader: CacheReader, memory: Arena, threads: int) -> None:
    """Read all groups of an epoch into ``memory``."""
    for _ in _read(reader, memory, threads, None, 1):
        pass


def _read(
    reader: CacheReader, memory: Arena, threads: int, stage: DeviceStage | None, epochs: int
) -> Iterator[object]:
    """Read epochs into ``memory``, each ahead while the one before ends, and on to a device by ``stage``."""
    shares = FollowingShares(_shares(reader))
    for _ in range(epochs - 1):
        shares.follow(_shares(reader))
    pipeline = Pipeline(
        shares, reader.shards, reader.layouts, memory, reader.bad_samples, reader.settings, threads
    )
    try:
        for batch in pipeline:
            if stage is not None:
                stage(batch.memory, batch.layout)
            yield batch
            pipeline.release(batch)
    finally:
        pipeline.stop()
        if isinstance(memory, ByteRing):
            memory.clear()


def _epoch(reader: CacheReader) -> Epoch:
    index = reader.index
    return epoch_steps(
        index.grids,
        np.diff(index.expression_offset),
        seed=0,
        epoch=0,
        expressions_per_step=STEP,
        expressions_per_image=EACH,
    )


def _shares(reader: CacheReader) -> Iterator[Share]:
    return (share(step, 0, 1) for step in _epoch(reader))


def _raw(folder: Path, threads: int) -> None:
    """Read each group's bytes, in the plan's order, into a reused buffer."""
    reader = CacheReader(folder, "train")
    index = reader.index
    starts, stops = index.offset[:, 0].tolist(), (index.offset[:, -1] + index.size[:, -1]).tolist()
    entries = reader.manifest.splits["train"].shards
    shard_of = np.repeat(np.arange(len(entries)), [entry.images for entry in entries]).tolist()
    files = [os.open(folder / entry.name, os.O_RDONLY) for entry in entries]
    images = [group.image for one in _shares(reader) for group in one.groups]
    room = max(stop - start for start, stop in zip(starts, stops, strict=True))

    def read(number: int) -> None:
        view = memoryview(_BUFFERS.setdefault(number, bytearray(room)))
        for image in images[number::threads]:
            os.preadv(files[shard_of[image]], [view[: stops[image] - starts[image]]], starts[image])

    workers = [Thread(target=read, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for file in files:
        os.close(file)


_BUFFERS: dict[int, bytearray] = {}


if __name__ == "__main__":
    main()
