"""Memory and processor time of the commands that process a whole data set, by its number of images.

    python -m maris_fast.bench.many_images --images 10000 100000

One small photograph under many names, with seven sentences on three objects each; every command runs in its
own process, whose peak resident memory and processor time the system reports.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

from maris_fast.bench.fake_cache import write_hollow_cache
from maris_fast.bench.results import BENCH, Row, Suite
from maris_fast.config import ReadingSettings
from maris_fast.data_shards.stream import CacheReader
from maris_fast.train.environment import environment
from maris_fast.train.ranks import Ranks

IMPORT, MIX, PLAN, AGAIN, START = (
    "import, JSON lines, --no-check-images",
    "mix, --no-compare-content",
    "cache --plan",
    "cache --plan, planned already",
    "read a cache: indexes, order of an epoch, first batch",
)
SENTENCES = (3, 2, 2)
"""Number for each object."""
WORDS = ("man", "woman", "dog", "left", "right", "red", "blue", "the", "of", "chair", "table", "with")
HEIGHT, WIDTH = 48, 64
VAL = 100
"""One image in this many is in the split "val"."""
_A_FOLDER = 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--out", type=Path, default=BENCH / "results")
    parser.add_argument("--scratch", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--start", type=Path, help="of a cache: read its first batch, and nothing else")
    options = parser.parse_args()
    if options.start:
        return read_first_batch(options.start)
    here = environment(Ranks(torch.device("cpu")))
    rows: list[Row] = []
    for images in options.images:
        with tempfile.TemporaryDirectory(prefix="maris-many-", dir=options.scratch) as folder:
            for row in measured(Path(folder), images):
                print(f"{row['images']:9,}  {row['peak_mb']:7,.0f} MiB  {row['cpu_s']:8,.1f} s  {row['way']}")
                rows.append(row)
                # Saved after each row, in case a later one fails or is stopped.
                Suite.now("many_images", here, rows).save(options.out)


def measured(folder: Path, images: int) -> Iterator[Row]:
    """Yield a row for each way, measured in ``folder``, which is created if it does not exist."""
    folder.mkdir(exist_ok=True)
    write_photographs(folder / "own", images)
    dataset, cache = folder / "imported", folder / "hollow"
    cli = [sys.executable, "-m", "maris_fast.cli"]
    importing = ["import", str(folder / "own"), "own.jsonl", "--images", "images", "--no-check-images"]
    plan = ["cache", str(dataset), "--config", "quickstart", "--plan", "--no-estimate", "device=cpu"]
    plan += ["--out", str(folder / "cache")]
    commands = {
        IMPORT: [*cli, *importing, "--out", str(dataset)],
        MIX: [*cli, "mix", str(dataset), "--no-compare-content", "--out", str(folder / "mixed")],
        PLAN: [*cli, *plan],
        AGAIN: [*cli, *plan],
        START: [sys.executable, "-m", "maris_fast.bench.many_images", "--start", str(cache)],
    }
    for way, command in commands.items():
        if way == START:
            write_hollow_cache(cache, images)
        peak_mib, cpu_s = usage_of(command)
        # "peak_mb" is in MiB: the key stays, as kept results have it.
        yield {"way": way, "images": images, "peak_mb": peak_mib, "cpu_s": cpu_s, "load": os.getloadavg()[0]}


def write_photographs(folder: Path, images: int) -> None:
    """Write ``images/`` and ``own.jsonl``, one line per object."""
    noise = random.Random(0)
    picture = io.BytesIO()
    Image.frombytes("RGB", (WIDTH, HEIGHT), noise.randbytes(3 * WIDTH * HEIGHT)).save(picture, "JPEG")
    folder.mkdir()
    with (folder / "own.jsonl").open("w") as lines:
        for number in range(images):
            name = f"{number // _A_FOLDER:04d}/photograph_{number:07d}.jpg"
            path = folder / "images" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(picture.getvalue())
            for sentences in SENTENCES:
                left, top = noise.randrange(WIDTH // 2), noise.randrange(HEIGHT // 2)
                line = {
                    "image": name,
                    "split": "train" if (number + 1) % VAL else "val",
                    "mask": [[left, top, left + 20, top, left + 20, top + 15, left, top + 15]],
                    "category": "thing",
                    "sentences": [" ".join(noise.choices(WORDS, k=4)) for _ in range(sentences)],
                }
                lines.write(json.dumps(line) + "\n")


def read_first_batch(cache: Path) -> None:
    """Do what a training run does with a cache before its first step."""
    # A hollow cache's shards hold zeros.
    with CacheReader(cache, "train", ReadingSettings(verify="never")) as reader:
        next(reader.batches(seed=0, epoch=0, expressions_per_step=8, expressions_per_image=8))


_USAGE = """
import json, os, sys
child = os.spawnv(os.P_NOWAIT, sys.argv[1], sys.argv[1:])
_, status, used = os.wait4(child, 0)
print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_maxrss / 1024, used.ru_utime + used.ru_stime]))
"""
"""Runs in a process of its own: a child's peak memory is never below its parent's."""


def usage_of(command: Sequence[str]) -> tuple[float, float]:
    """Peak resident memory of a process in MiB and its processor time in seconds, as the system reports them.

    Raises:
        RuntimeError: the process failed; the message has its output.
    """
    done = subprocess.run([sys.executable, "-c", _USAGE, *command], capture_output=True, text=True)
    status, peak_mib, cpu_s = json.loads(done.stdout.splitlines()[-1])
    if status:
        raise RuntimeError(f"{command} failed: {(done.stdout + done.stderr)[-2000:]}")
    return peak_mib, cpu_s


if __name__ == "__main__":
    main()
