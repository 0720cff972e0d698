"""Slots of the ring never overlap while they are in use, and are found whenever there is room."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maris_fast.bench.fake_cache import write_fake_cache
from maris_fast.config import ReadingSettings
from maris_fast.data_shards.stream import CacheReader
from maris_fast.data_shards.stream.reused_memory import ReusedMemory
from maris_fast.data_shards.stream.ring import ByteRing, Slot
from maris_fast.errors import ConfigError

PAGE = 4096


@given(st.lists(st.one_of(st.integers(1, 5 * PAGE), st.none()), max_size=60), st.randoms())
def test_slots_in_use_never_overlap_and_an_empty_ring_takes_any(
    events: list[int | None], random: object
) -> None:
    ring = ByteRing(10 * PAGE, pinned=False)
    live: list[Slot] = []
    for size in events:
        if size is None and live:
            ring.release(live.pop(random.randrange(len(live))))  # type: ignore[attr-defined]
        elif size is not None:
            slot = ring.reserve(size)
            if slot is None:
                assert live
                continue
            assert 0 <= slot.start < slot.stop <= ring.capacity
            assert len(slot.memory) >= size
            assert all(slot.stop <= one.start or one.stop <= slot.start for one in live)
            live.append(slot)
    for slot in live:
        ring.release(slot)
    assert ring.reserve(10 * PAGE) is not None


def test_a_kernel_without_huge_pages_gives_small_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmap.MADV_HUGEPAGE", 9999)  # an advice that no kernel knows
    with pytest.raises(OSError, match="Invalid argument"):
        mmap.mmap(-1, PAGE).madvise(mmap.MADV_HUGEPAGE)
    slot = ByteRing(4 * PAGE, pinned=False).reserve(PAGE)
    assert slot is not None
    assert not slot.memory.any()
    assert ReusedMemory(most=1).empty((3, 5), torch.float32).shape == (3, 5)


def test_slots_go_round_and_wait_for_the_oldest() -> None:
    ring = ByteRing(4 * PAGE, pinned=False)
    first, second, third = (ring.reserve(PAGE) for _ in range(3))
    assert first is not None
    assert second is not None
    assert third is not None
    assert ring.reserve(2 * PAGE) is None
    ring.release(second)
    assert ring.reserve(2 * PAGE) is None
    ring.release(first)
    around = ring.reserve(2 * PAGE)
    assert around is not None
    assert (around.start, around.stop) == (0, 2 * PAGE)
    assert ring.reserve(PAGE) is None
    with pytest.raises(ValueError, match="ring of"):
        ring.reserve(5 * PAGE)


def test_a_batch_beyond_the_buffer_is_refused_with_the_bytes_it_needs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_fake_cache(tmp_path / "cache", 4, grids=[(8, 8)], channels=64)
    plan = {"seed": 0, "epoch": 0, "expressions_per_step": 14, "expressions_per_image": 7}
    with CacheReader(tmp_path / "cache", "train", ReadingSettings(buffer_bytes=20_000)) as reader:
        with pytest.raises(ConfigError, match=r"needs up to [\d,]+ bytes, data.buffer_bytes is 20,000; set"):
            reader.batches(**plan)
        with pytest.raises(ConfigError, match=r"lower data\.expressions_per_step"):
            reader.evaluation_batches()
    with CacheReader(tmp_path / "cache", "train", ReadingSettings(buffer_bytes=130_000)) as reader:
        assert len(list(reader.batches(**plan))) == 2
    assert "holds one batch only" in caplog.text


GROWTH = """
import resource, sys
from pathlib import Path
from maris_fast.config import ReadingSettings
from maris_fast.data_shards.stream import CacheReader

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def read(reader):
    seen = peak = 0
    for batch in reader.batches(seed=0, epoch=0, expressions_per_step=14, expressions_per_image=7):
        seen += batch.expressions
        peak = max(peak, resident())
    assert seen == reader.expressions
    return peak

small = CacheReader(Path(sys.argv[1]), "train", ReadingSettings(buffer_bytes=int(sys.argv[3])))
read(small)  # torch's and the threads' own memory
before = resident()
large = CacheReader(Path(sys.argv[2]), "train", ReadingSettings(buffer_bytes=int(sys.argv[3]), prefetch=99))
print(read(large) - before)
"""


@pytest.mark.process
def test_memory_stays_within_the_buffer_while_more_than_twice_as_much_is_read(tmp_path: Path) -> None:
    h, w, channels, images = 32, 32, 256, 360
    write_fake_cache(tmp_path / "small", 2, grids=[(8, 8)], channels=16)
    write_fake_cache(tmp_path / "large", images, grids=[(h, w)], channels=channels)
    buffer = 128 * 2**20
    assert sum(path.stat().st_size for path in (tmp_path / "large").glob("*.tar")) > 2 * buffer
    done = subprocess.run(
        [sys.executable, "-c", GROWTH, tmp_path / "small", tmp_path / "large", str(buffer)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    # On a CPU the "device" is the same memory: a batch in use, one waiting and one being unpacked, each with
    # float32 features and with masks as bools and bits.
    features, targets = 2 * 3 * h * w * channels * 4, 14 * 16 * h * w * 9 // 8
    bound = buffer + 3 * (features + targets)
    assert int(done.stdout) < 1.1 * bound
    assert int(done.stdout) > buffer / 2  # the measurement includes the buffer
