"""kill -9 while training: the order of samples continues unchanged, also with another number of ranks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import pytest

from maris_fast.data_shards.stream import CacheReader
from tests.training.processes import records, start, torchrun
from tests.training.recorded_run import EACH, EPOCHS, EXPRESSIONS, SEED
from tests.training.tiny_cache import write_tiny_cache

pytestmark = pytest.mark.process

SCRIPT = Path(__file__).with_name("recorded_run.py")


def uninterrupted(cache: Path) -> list[list[int]]:
    """The sentences of each step, from the reader alone."""
    with CacheReader(cache, "train") as reader:
        return [
            sorted(sample.sent_id for sample in batch.samples)
            for epoch in range(EPOCHS)
            for batch in reader.batches(
                seed=SEED, epoch=epoch, expressions_per_step=EXPRESSIONS, expressions_per_image=EACH
            )
        ]


def recorded(folder: Path) -> dict[int, list[int]]:
    """The sentences of each step, from all processes that wrote to ``folder``."""
    steps: dict[int, list[int]] = defaultdict(list)
    for path in folder.glob("*.jsonl"):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            steps[record["step"]] += record["sent_ids"]
    return {step: sorted(sent_ids) for step, sent_ids in steps.items()}


def train(folder: Path, name: str, ranks: int, until: int | None) -> dict[int, list[int]]:
    """Start or resume the run, kill its ranks once ``until`` has begun, and return each step's sentences."""
    written = folder / name
    written.mkdir()
    launcher = torchrun() if ranks == 2 else (sys.executable,)
    with start(*launcher, SCRIPT, folder / "cache", folder / "run", written) as process:
        if until is None:
            output = process.communicate(timeout=120)[0]
            assert process.returncode == 0, output[-4000:]
        else:
            kill_at(until, process, written, ranks)
    return recorded(written)


def kill_at(step: int, process: subprocess.Popen[str], written: Path, ranks: int) -> None:
    deadline = time.monotonic() + 120
    while max(recorded(written), default=-1) < step:
        assert process.poll() is None, process.communicate()[0][-4000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = [int(path.stem) for path in written.glob("*.jsonl")]
    assert len(workers) == ranks
    for pid in workers:
        os.kill(pid, signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode != 0


@pytest.mark.timeout(300)
def test_a_killed_run_resumes_in_the_same_order_with_two_ranks_then_one_then_two(tmp_path: Path) -> None:
    cache = write_tiny_cache(tmp_path)
    plan = uninterrupted(cache)
    launches = [
        train(tmp_path, "two", ranks=2, until=7),
        train(tmp_path, "one", ranks=1, until=17),
        train(tmp_path, "two again", ranks=2, until=None),
    ]
    for launch in launches:
        last = max(launch)  # at the step of the kill, one rank may have written its line and the other not
        for step in launch.keys() - {last}:
            assert launch[step] == plan[step], f"step {step}"
        assert set(launch[last]) <= set(plan[last])
    starts = [min(launch) for launch in launches]
    assert starts[0] == 0
    assert starts[1] in (3, 6, 9)  # from a checkpoint, not from the beginning
    assert starts[2] in (12, 15, 18)
    assert launches[2][len(plan) - 1] == plan[-1]
    assert [record["step"] for record in records(tmp_path / "run", "train")] == list(range(1, len(plan) + 1))
