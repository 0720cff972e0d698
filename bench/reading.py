"""A waterfall of readers on the same shards, from stock webdataset to reading the bytes raw.

    python -m maris_fast.bench.reading

Synthetic groups of ViT-H's size (three int8 maps of 64 x 48 x 1280, 11.8 MB) go through the writer that real
ones go through. Every way reads all of them once a round; rounds take the ways in turn, and what is reported
is the median over rounds of each way's time against raw reading in the same round, by one thread and by two.
On a GPU there are two ways more, which end there: from a ring that is not pinned, and from one that is.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread

import numpy as np
import torch
import webdataset

from maris_fast.bench.drawing.plain_tables import RAW_TWO
from maris_fast.bench.fake_cache import write_fake_cache, write_hollow_cache
from maris_fast.bench.measuring import in_turn, paired, seconds_of
from maris_fast.bench.results import BENCH, Row, Suite
from maris_fast.config import ReadingSettings
from maris_fast.data_shards.scaling import PLAN_RATES
from maris_fast.data_shards.stream import CacheReader
from maris_fast.data_shards.stream.device import DeviceStage
from maris_fast.data_shards.stream.pipeline import Pipeline
from maris_fast.data_shards.stream.ring import Arena, ByteRing, Slot
from maris_fast.data_shards.stream.step_order import Epoch, Share, epoch_steps, share
from maris_fast.train.environment import environment
from maris_fast.train.ranks import Ranks

STEP, EACH = 64, 8
RAW = "raw preadv, one thread"
STOCK = "stock webdataset, in process"
OURS = "ours: ring, 2 threads, checksums never"
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


class FreshMemory:
    """What the ring replaces: memory of its own for every batch."""

    def reserve(self, size: int) -> Slot:
        return Slot(torch.empty(size, dtype=torch.uint8), 0, size)

    def release(self, slot: Slot) -> None:
        pass


def main() -> None:
    def rows_of(cache: Path, rounds: int) -> list[Row]:
        return [
            *measured(cache, rounds, cold=False),
            *measured(cache, max(3, rounds // 2), cold=True),
            start_up(cache.with_name("hollow"), 100_000),
        ]

    rows = run_suite("reading", __doc__, rows_of, images=120, device=DEVICE)
    for row in rows[:-1]:
        print(
            f"{row['page_cache']:5} {row['way']:48} {row['gb_per_s']:6.2f} GB/s  "
            f"{row['to_raw']:5.2f} and {row['to_raw_two']:5.2f} of raw  {row['to_stock']:5.1f} x stock"
        )
    print(rows[-1])


def run_suite(
    name: str,
    about: str | None,
    rows_of: Callable[[Path, int], list[Row]],
    *,
    images: int,
    device: torch.device,
) -> list[Row]:
    """The rows that ``rows_of`` measures in a number of rounds on a fake cache, which it may write beside.

    Reads the command line, saves the suite and removes what was written.
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


def measured(folder: Path, rounds: int, *, cold: bool) -> list[Row]:
    """All ways in turn, ``rounds`` times; cold: the shards are dropped from the page cache before each."""
    reader = CacheReader(folder, "train")
    total = int(reader.index.size.sum())

    def timed(way: Callable[[], None]) -> float:
        if cold:
            _forget(folder)
        return seconds_of(way)

    seconds, load = in_turn({name: partial(timed, way) for name, way in _ways(folder).items()}, rounds)
    rows: list[Row] = [
        {
            "way": name,
            "page_cache": "cold" if cold else "warm",
            "images": reader.images,
            "rounds": rounds,
            "load_average": load,
            "gb_per_s": total / statistics.median(times) / 1e9,
            "expressions_per_s": reader.expressions / statistics.median(times),
            "to_raw": paired(seconds[RAW], times),
            "to_raw_two": paired(seconds[RAW_TWO], times),
            "to_stock": paired(seconds[STOCK], times),
            "seconds": times,
        }
        for name, times in seconds.items()
    ]
    for row in rows:
        if cold and row["way"] == OURS:  # what a disk gives to the reader
            shape = f"{OURS}, cold page cache, {reader.images} groups of ViT-H's size"
            row |= {"shape": shape, PLAN_RATES: {"disk_GBps": row["gb_per_s"]}}
    return rows


def start_up(folder: Path, images: int) -> Row:
    """Seconds from nothing to the first epoch's plan, on an index of so many images."""
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
        "both_cpu_s": cpu,  # less at the mercy of other work on the machine
        "load_average": os.getloadavg()[0],
    }


def _ways(folder: Path) -> dict[str, Callable[[], None]]:
    def ours(
        threads: int,
        verify: str,
        *,
        ring: bool = True,
        pinned: bool = False,
        stage: DeviceStage | None = None,
    ) -> Callable[[], None]:
        settings = ReadingSettings.model_validate({"reader_threads": threads, "verify": verify})
        reader = CacheReader(folder, "train", settings)
        memory = ring_for(reader, pinned=pinned) if ring else FreshMemory()

        return lambda: read_once(reader, memory, threads, stage)

    on_gpu: dict[str, Callable[[], None]] = {}
    if DEVICE.type == "cuda":
        stage = DeviceStage(DEVICE, torch.bfloat16)
        for pinned in (False, True):
            name = f"ours: ring{', pinned' if pinned else ''}, 2 threads, bf16 on the GPU"
            on_gpu[name] = ours(2, "never", pinned=pinned, stage=stage)
    return {
        STOCK: lambda: _stock(folder, None),
        "stock webdataset, 1 DataLoader worker": lambda: _stock(folder, 1),
        "stock webdataset, 2 DataLoader workers": lambda: _stock(folder, 2),
        "ours: fresh memory, 1 thread, checksums never": ours(1, "never", ring=False),
        "ours: ring, 1 thread, checksums never": ours(1, "never"),
        OURS: ours(2, "never"),
        "ours: ring, 1 thread, checksums of all": ours(1, "always"),
        "ours: ring, 2 threads, checksums of all": ours(2, "always"),
        "ours: ring, 2 threads, float32 on the CPU": lambda: _dequantised(folder),
        **on_gpu,
        RAW: lambda: _raw(folder, 1),
        RAW_TWO: lambda: _raw(folder, 2),
    }


def ring_for(reader: CacheReader, *, pinned: bool = False) -> ByteRing:
    """As large as training would have it."""
    largest = max(
        sum(int(reader.layouts.slot_bytes[group.image]) for group in step.groups) for step in _epoch(reader)
    )
    return ByteRing((reader.settings.prefetch + 2) * largest, pinned=pinned)


def read_once(reader: CacheReader, memory: Arena, threads: int, stage: DeviceStage | None = None) -> None:
    """All groups of an epoch into ``memory``, and on to a device by ``stage``."""
    pipeline = Pipeline(
        _shares(reader), reader.shards, reader.layouts, memory, reader.bad_samples, reader.settings, threads
    )
    for batch in pipeline:
        if stage is not None:
            stage(batch.memory, batch.layout)
        pipeline.release(batch)
    pipeline.stop()


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


def _stock(folder: Path, workers: int | None) -> None:
    urls = [str(path) for path in sorted(folder.glob("*.tar"))]
    data = webdataset.WebDataset(
        urls, shardshuffle=False, workersplitter=webdataset.split_by_worker, empty_check=False
    ).decode()
    if workers is not None:
        data = torch.utils.data.DataLoader(data, batch_size=None, num_workers=workers)
    for _ in data:
        pass


def _raw(folder: Path, threads: int) -> None:
    """Each group's bytes, in the plan's order, into a buffer that is used again."""
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


def _dequantised(folder: Path) -> None:
    with CacheReader(folder, "train", ReadingSettings(verify="never")) as reader:
        for _ in reader.batches(seed=0, epoch=0, expressions_per_step=STEP, expressions_per_image=EACH):
            pass


def _forget(folder: Path) -> None:
    for path in folder.glob("*.tar"):
        with path.open("rb") as shard:
            os.fsync(shard.fileno())
            os.posix_fadvise(shard.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    main()
