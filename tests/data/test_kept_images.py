"""Images read from an address are kept in ``data.staging``, within its bound, also after kills."""

from __future__ import annotations

import hashlib
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maris_fast.config import ReadingSettings
from maris_fast.data_shards.cache import write_cache
from maris_fast.data_shards.stream import CacheReader
from maris_fast.data_shards.stream.kept_images import IN_USE_SECONDS
from maris_fast.system import locks
from maris_fast.system.locks import lock_in
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset
from tests.data.far_servers import Far, web_server
from tests.data.test_stream_staging import everything, leave_lock
from tests.faults import small_disk

IMAGES = 5
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with one image per shard."""
    folder = tmp_path_factory.mktemp("kept")
    dataset = write_dataset(folder / "dataset", {"train": default_records()})
    write_cache(dataset, folder / "cache", tiny_settings(shard_bytes=1), progress=False)
    return folder / "cache"


@pytest.fixture(scope="module")
def local(cache: Path) -> list[tuple[Any, ...]]:
    with CacheReader(cache, "train") as reader:
        return everything(reader)


@pytest.fixture
def far(cache: Path) -> Iterator[Far]:
    with web_server(cache) as server:
        yield server


def read(far: Far, folder: Path, **settings: Any) -> list[tuple[Any, ...]]:
    with CacheReader(far.address, "train", ReadingSettings(staging=folder, **settings)) as reader:
        return everything(reader)


def largest(cache: Path) -> int:
    """Largest size of a shard's copy, including the byte for its one image."""
    return max(path.stat().st_size for path in cache.glob("*.tar")) + 1


def kept(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.kept"))


def test_each_image_is_fetched_once_and_never_again(
    far: Far, local: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    assert read(far, folder, prefetch=1) == local
    first = len(far.faults.ranges)
    assert IMAGES <= first < len(local)  # two threads that request an image at the same time both fetch it
    assert read(far, folder) == local
    assert len(far.faults.ranges) == first
    assert len(kept(folder)) == IMAGES
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize("room", [0, 1, 3])
def test_what_does_not_fit_is_read_again_and_the_bound_holds(
    far: Far, cache: Path, local: list[tuple[Any, ...]], tmp_path: Path, room: int
) -> None:
    folder, bound = tmp_path / "kept", room * largest(cache) + 100
    for _ in range(2):
        assert read(far, folder, staging_bytes=bound) == local
        assert sum(path.stat().st_size for path in kept(folder)) <= bound
    assert len(kept(folder)) == room
    names = {path.name.partition("-")[2].removesuffix(".kept") for path in kept(folder)}
    before = len(far.faults.ranges)
    read(far, folder, staging_bytes=bound)
    assert not {name for name, _ in far.faults.ranges[before:]} & names  # kept images stay


def test_a_bound_below_the_cache_is_reported(
    far: Far, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bound = 2 * largest(cache)
    total = sum(path.stat().st_size + 1 for path in cache.glob("*.tar"))
    with caplog.at_level(logging.WARNING):
        read(far, tmp_path / "kept", staging_bytes=bound)
    assert f"keeps {100 * bound / total:.0f}% of the split's {total:,} bytes" in caplog.text


def test_a_changed_copy_is_fetched_again(far: Far, local: list[tuple[Any, ...]], tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    read(far, folder)
    chance, before = random.Random(3), len(far.faults.ranges)
    for path in kept(folder):
        content = bytearray(path.read_bytes())
        for _ in range(40):
            content[chance.randrange(len(content) - 1)] ^= 1 << chance.randrange(8)
        path.write_bytes(content)
    assert read(far, folder) == local
    assert IMAGES <= len(far.faults.ranges) - before <= 2 * IMAGES
    again = len(far.faults.ranges)
    assert read(far, folder) == local  # repaired
    assert len(far.faults.ranges) == again


def test_a_copy_that_was_cut_or_replaced_is_fetched_again(
    far: Far, local: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    folder = tmp_path / "kept"
    read(far, folder)
    first, second, third, *_ = kept(folder)
    os.truncate(first, 3000)
    second.unlink()
    third.unlink()
    third.mkdir()
    assert read(far, folder) == local


def test_copies_go_while_they_are_used(far: Far, local: list[tuple[Any, ...]], tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    with CacheReader(far.address, "train", ReadingSettings(staging=folder)) as reader:
        for _ in range(3):
            assert everything(reader) == local
            for path in kept(folder):
                path.unlink()
        shutil.rmtree(folder)
        assert everything(reader) == local


def test_a_full_disk_ends_no_run_and_nothing_wrong_is_kept(
    far: Far, cache: Path, local: list[tuple[Any, ...]], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for size in ("4k", f"{largest(cache) * 2 // 1024}k"):
        caplog.clear()
        with small_disk(tmp_path / "disk", size) as disk, caplog.at_level(logging.WARNING):
            assert read(far, disk) == local
            assert caplog.text.count("cannot be written: [Errno 28]") == 1
            assert read(far, disk) == local


def test_room_is_made_by_evicting_unused_copies(
    far: Far, cache: Path, local: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    folder, bound = tmp_path / "kept", IMAGES * largest(cache)
    folder.mkdir()
    old = folder / f"{'0' * 16}-train-000000.tar.kept"
    used = folder / f"{'4' * 16}-train-000000.tar"
    foreign = folder / "backup.tar"
    for path in (old, used, foreign):
        path.write_bytes(bytes(2 * largest(cache)))
    long_ago = time.time() - IN_USE_SECONDS - 5
    for path in (old, foreign):
        os.utime(path, (long_ago, long_ago))
    of_a_killed_process = folder / f".{'8' * 16}-train-000000.tar.partial"
    of_a_killed_process.write_bytes(bytes(largest(cache)))
    assert read(far, folder, staging_bytes=bound) == local
    assert not old.exists()
    assert used.exists()
    assert foreign.exists()
    assert len(kept(folder)) == 3
    assert not list(folder.glob(".*.partial"))


def test_a_lock_left_before_a_reboot_is_taken_over_though_that_takes_longer_than_a_stall(
    far: Far, local: list[tuple[Any, ...]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE", 5.0)
    folder = tmp_path / "kept"
    leave_lock(lock_in(folder))
    before = time.monotonic()
    assert read(far, folder, stall_seconds=3, requests=4) == local
    assert time.monotonic() - before > 5
    assert len(kept(folder)) == IMAGES


RANK = """
import hashlib, sys
from pathlib import Path
from maris_fast.config import ReadingSettings
from maris_fast.data_shards.stream import CacheReader
from tests.data.test_stream_staging import everything
address, staging, bound = sys.argv[1:]
settings = ReadingSettings(staging=Path(staging), staging_bytes=int(bound))
while True:
    with CacheReader(address, "train", settings) as reader:
        print(hashlib.sha256(repr(everything(reader)).encode()).hexdigest(), flush=True)
"""


@pytest.mark.process
def test_ranks_share_the_folder_and_may_be_killed_at_any_moment(
    far: Far, cache: Path, local: list[tuple[Any, ...]], tmp_path: Path
) -> None:
    expected = hashlib.sha256(repr(local).encode()).hexdigest()
    folder, bound, chance = tmp_path / "kept", 4 * largest(cache), random.Random(7)
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, far.address, str(folder), str(bound)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]
    try:
        for rank in ranks:
            assert rank.stdout is not None
            assert rank.stdout.readline().strip() == expected
        for rank in ranks:
            for path in kept(folder):
                path.unlink()  # so that something is being written
            time.sleep(chance.random() / 10)
            rank.send_signal(signal.SIGKILL)
            rank.wait()
            assert read(far, folder, staging_bytes=bound) == local
            assert sum(path.stat().st_size for path in kept(folder)) <= bound
        for rank in ranks:
            assert rank.stdout is not None
            assert set(rank.stdout.read().split()) <= {expected}
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    before = len(far.faults.ranges)
    assert read(far, folder, staging_bytes=10 * bound) == local
    assert read(far, folder, staging_bytes=10 * bound) == local
    assert len(far.faults.ranges) - before <= 2 * IMAGES
