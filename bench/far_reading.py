"""The reader on a cache behind a web server on this machine, against the same cache on the local disk.

    python -m maris_fast.bench.far_reading

Groups have ViT-H's size as in ``bench/reading.py``. The server is a separate process that waits before each
response; every way reads all groups once per round, and the result is the median over rounds of the local
disk's time divided by the way's in the same round. litdata, if installed, reads the same arrays in its own
format from servers of the same kind, into new copies each round. It takes seconds to start, negligible in a
long epoch, so the time for a quarter of the images, which includes such a start, is subtracted, and the rest
scaled to all images.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import torch

from maris_fast.bench.measuring import in_turn, paired, seconds_of
from maris_fast.bench.reading import read_once, ring_for, run_suite
from maris_fast.bench.reading_peers import WRITERS, arrays_of, litdata_at
from maris_fast.bench.results import Row
from maris_fast.config import ReadingSettings
from maris_fast.data_shards.stream import CacheReader

LATENCY = 0.02
FEW = 4
"""The smaller set has one in this many images."""
LOCAL = "local disk, 2 threads"


def main() -> None:
    def rows_of(cache: Path, rounds: int) -> list[Row]:
        return measured(cache, rounds, cache.with_name("kept"))

    rows = run_suite("far_reading", __doc__, rows_of, images=60, device=torch.device("cpu"))
    for row in rows:
        if "left_out" in row:
            print(row)
        else:
            print(f"{row['way']:48} {row['gb_per_s']:6.2f} GB/s  {row['to_local']:5.2f} of the local disk")


def measured(cache: Path, rounds: int, kept: Path) -> list[Row]:
    """Time all ways in turn, ``rounds`` times; ``kept`` is a new folder for copies."""
    pause = f"{1000 * LATENCY:g} ms before each answer"
    rows: list[Row] = []
    peers: dict[str, Callable[[], float]] = {}
    with ExitStack() as stack:
        near, far = (stack.enter_context(_served(cache, latency)) for latency in (0.0, LATENCY))
        ways = {
            LOCAL: _way(cache, 2),
            "web server, 16 requests": _way(near, 16),
            f"{pause}, 1 request": _way(far, 1),
            f"{pause}, 4 requests": _way(far, 4),
            f"{pause}, 16 requests": _way(far, 16),
            "the same from the second epoch on, in data.staging": _way(far, 16, kept),
        }
        try:
            folders = _written_by_litdata(cache)
        except ImportError as error:
            rows.append({"way": "litdata", "left_out": str(error)})
        else:
            for where, latency in {"web server": 0.0, pause: LATENCY}.items():
                few, all_ = (stack.enter_context(_served(folder, latency)) for folder in folders)
                peers[f"litdata, {where}"] = partial(_litdata, few, all_, cache.with_name("copies"))
        # The first round, which is not counted, creates the connections, rings and copies.
        timed = {name: partial(seconds_of, way) for name, way in ways.items()}
        seconds, load = in_turn({**timed, **peers}, rounds)
    with CacheReader(cache, "train") as reader:
        images, total = reader.images, int(reader.index.size.sum())
    return [
        {
            "way": name,
            "images": images,
            "rounds": rounds,
            "latency_s": LATENCY,
            "load_average": load,
            "gb_per_s": total / statistics.median(times) / 1e9,
            "to_local": paired(seconds[LOCAL], times),
            "seconds": times,
        }
        for name, times in seconds.items()
    ] + rows


def _written_by_litdata(cache: Path) -> tuple[Path, Path]:
    """Folders with a quarter of the images, and with all of them."""
    images = list(arrays_of(cache))
    few, every = cache.with_name("few"), cache.with_name("every")
    for folder, some in {few: images[: len(images) // FEW], every: images}.items():
        folder.mkdir()
        WRITERS["litdata"](some, folder)
    return few, every


def _litdata(few: str, every: str, copies: Path) -> float:
    """Seconds for all images without litdata's start-up."""
    seconds = []
    for url in (few, every):
        seconds.append(seconds_of(lambda: deque(litdata_at(url, copies), maxlen=0)))  # noqa: B023
        shutil.rmtree(copies)
    return (seconds[1] - seconds[0]) * FEW / (FEW - 1)


def _way(place: Path | str, threads: int, staging: Path | None = None) -> Callable[[], None]:
    reader = CacheReader(place, "train", ReadingSettings(verify="always", staging=staging))
    memory = ring_for(reader)
    return lambda: read_once(reader, memory, threads)


@contextmanager
def _served(folder: Path, latency: float) -> Iterator[str]:
    command = [sys.executable, "-m", "maris_fast.bench.range_server", str(folder), "--latency", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
