"""A reader of 100,000 images starts within seconds."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from maris_fast.bench.fake_cache import write_hollow_cache
from maris_fast.data_shards.stream import CacheReader


@pytest.mark.slow
def test_an_index_of_100_000_images_is_opened_and_planned_in_seconds(tmp_path: Path) -> None:
    write_hollow_cache(tmp_path / "cache", 100_000)
    took, of_cpu = [], []
    for _ in range(3):
        before, cpu_before = time.perf_counter(), time.process_time()
        with CacheReader(tmp_path / "cache", "train") as reader:
            reader.batches(seed=0, epoch=0, expressions_per_step=64, expressions_per_image=8)
        took.append(time.perf_counter() - before)
        of_cpu.append(time.process_time() - cpu_before)
    assert reader.images == 100_000
    # The target is two seconds. Other load on the machine delays a start-up but adds little to its CPU time,
    # so the target applies to CPU time, and wall-clock time gets the limit of a busy machine.
    assert min(of_cpu) < 2
    assert min(took) < 8
