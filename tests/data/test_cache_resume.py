"""A cache that is interrupted resumes where it stopped, and ends up with the same bytes."""

from __future__ import annotations

import errno
import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from maris_fast.config import CacheSettings, TextSettings
from maris_fast.data_shards.cache import read_manifest, write_cache
from maris_fast.data_shards.cache import write as write_module
from maris_fast.data_shards.cache.group import EncodedGroup
from maris_fast.data_shards.cache.index import ShardIndex
from maris_fast.data_shards.cache.photographs import Photographs
from maris_fast.data_shards.cache.workers import Worker, find_worker
from maris_fast.data_shards.cache.write import CacheJob, encode_groups
from maris_fast.data_shards.records import ImageRecord
from maris_fast.encoders import SamEncoder, TextEncoder
from maris_fast.errors import ConfigError, InputError
from maris_fast.system.new_files import new_file
from tests.command_line import maris_fast
from tests.data.cache_dataset import SIZES, WORDS, default_records, record, tiny_settings, write_dataset
from tests.data.killed_writers import SETTINGS
from tests.faults import Disk, small_disk
from tests.folders import files_below
from tests.training.processes import deepspeed, run

ROOT = Path(__file__).resolve().parents[2]
OVERRIDES = (
    "encoders.sam.arch=vit_tiny",
    "encoders.sam.weights=random",
    "encoders.sam.image_size=128",
    "encoders.text.arch=tiny",
    "encoders.text.weights=random",
    "device=cpu",
    *(f"{key}={value}" for key, value in SETTINGS.items()),
)


def many_records(count: int) -> list[ImageRecord]:
    return [
        record(i + 1, SIZES[i % 5], [(e % 2, WORDS[(i + e) % 7]) for e in range(1 + i % 4)])
        for i in range(count)
    ]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    splits = {"train": many_records(12), "val": many_records(3)}
    return write_dataset(tmp_path_factory.mktemp("dataset"), splits)


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache written without interruption."""
    out = tmp_path_factory.mktemp("whole") / "cache"
    write_cache(dataset, out, settings(), progress=False)
    return out


def settings(**changes: object) -> CacheSettings:
    return tiny_settings(**{**SETTINGS, **changes})


def assert_same(folder: Path, whole: Path) -> None:
    found, expected = files_below(folder), files_below(whole)
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def killed_writers(dataset: Path, out: Path, *moments: float) -> list[list[str]]:
    """The names in each folder when its writer died."""
    command = [sys.executable, "-m", "tests.data.killed_writers", str(dataset), str(out), *map(str, moments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # forks do not inherit a thread pool
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=300, check=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()]


def same_threads() -> int:
    # Sums are split among threads, so another number of threads may give other bytes.
    return torch.get_num_threads()


@pytest.mark.process
def test_killed_at_twenty_random_moments_it_ends_with_the_same_bytes(dataset: Path, tmp_path: Path) -> None:
    moments = random.Random(4)
    deaths = killed_writers(dataset, tmp_path, *(moments.uniform(0, 1) for _ in range(20)))
    # Some must die before the first shard and some between shards, or the moments test nothing.
    assert len({len(names) for names in deaths}) >= 3
    assert len(read_manifest(tmp_path / "whole").splits["train"].shards) == 5
    for i in range(20):
        assert_same(tmp_path / str(i), tmp_path / "whole")


@pytest.mark.process
def test_killed_before_any_change_of_a_name_it_ends_with_the_same_bytes(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": many_records(5)})
    out = tmp_path / "killed"
    deaths = killed_writers(dataset, out)
    assert len(deaths) > 10
    # All the states that a reader or a restart could mistake for more complete ones.
    assert any("train-000000.index.npz" in names and "train-000000.tar" not in names for names in deaths)
    assert any("train-000000.tar" in names and "train-000001.tar" not in names for names in deaths)
    assert any("manifest.json" in names and "writing.json" in names for names in deaths)
    for names in deaths:
        if "manifest.json" in names:
            assert set(files_below(out / "whole")) <= set(names)
    for folder in out.iterdir():
        assert_same(folder, out / "whole")


def command(dataset: Path, out: Path, *options: str) -> list[str]:
    return [sys.executable, "-m", "maris_fast.cli", "cache", str(dataset), str(out), *OVERRIDES, *options]


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_command_resumes_after_being_killed_or_stopped(tmp_path: Path, number: signal.Signals) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": many_records(40)})
    out = tmp_path / "cache"
    writer = subprocess.Popen(
        command(dataset, out, "--no-estimate"), cwd=ROOT, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while not (out / "train-000000.tar").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    writer.send_signal(number)
    _, said = writer.communicate(timeout=60)
    assert not (out / "manifest.json").exists()
    if number != signal.SIGKILL:
        assert writer.returncode == 130
        assert "the same command resumes" in said.decode()
        assert not list(out.glob("*.part"))
    with pytest.raises(InputError, match=r"not complete: \d+ of \d+ shards written; run the same"):
        read_manifest(out)
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    result = maris_fast(*command(dataset, out, "--no-estimate")[3:])
    assert result.exit_code == 0, result.output
    assert f"({len(before)} are written)" in " ".join(result.output.split())
    assert {name: (out / name).stat().st_mtime_ns for name in before} == before
    write_cache(dataset, tmp_path / "whole", settings(), progress=False)
    assert_same(out, tmp_path / "whole")


@pytest.mark.parametrize("world", [2, 3, 9])
def test_any_number_of_workers_in_any_order_writes_the_same_bytes(
    dataset: Path, whole: Path, tmp_path: Path, world: int
) -> None:
    out = tmp_path / "cache"
    ranks = list(range(world))
    random.Random(world).shuffle(ranks)
    results = [
        write_cache(dataset, out, settings(), worker=Worker(rank, world), progress=False) for rank in ranks
    ]
    if world <= 6:  # else some workers have no shard, and the cache may be complete before they run
        assert results[:-1] == [None] * (world - 1)
    assert results[-1] == read_manifest(whole)
    assert_same(out, whole)


@pytest.mark.process
@pytest.mark.parametrize("launcher", ["torchrun", "deepspeed"])
def test_two_processes_of_a_launcher_share_the_work(
    dataset: Path, whole: Path, tmp_path: Path, launcher: str
) -> None:
    launch: tuple[str, ...] = (sys.executable, "-m", "torch.distributed.run", "--standalone")
    launch += ("--nproc_per_node", "2", "-m")
    if launcher == "deepspeed":
        launch = deepspeed(2, "--no_local_rank", "--module")
    done = run(
        *launch,
        *command(dataset, tmp_path / "cache")[2:],
        changed={"OMP_NUM_THREADS": str(same_threads())},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("plan of") == 1
    assert "of 2 shares" in done.stdout
    assert_same(tmp_path / "cache", whole)


def test_a_worker_is_found_by_options_and_launchers() -> None:
    torchrun = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    srun = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "2"}
    assert find_worker(environment={}) == Worker()
    assert find_worker(environment=torchrun) == Worker(3, 8, 1, 2)
    assert find_worker(environment={**srun, "SLURM_TASKS_PER_NODE": "3(x2)"}) == Worker(5, 6, 2, 3)
    # In a batch script before srun there is no step: one process, all shards.
    assert find_worker(environment={"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}) == Worker()
    assert find_worker(1, 4, torchrun) == Worker(1, 4)
    for rank, world in ((4, 4), (0, None), (None, 2)):
        with pytest.raises(ConfigError):
            find_worker(rank, world, {})


def test_a_complete_cache_is_left_as_it_is(dataset: Path, whole: Path, tmp_path: Path) -> None:
    write_cache(dataset, tmp_path / "cache", settings(), progress=False)
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "cache").glob("*-*")}
    assert write_cache(dataset, tmp_path / "cache", settings(), progress=False) == read_manifest(whole)
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert_same(tmp_path / "cache", whole)


@pytest.mark.parametrize("damage", ["gone", "short", "index gone"])
def test_a_damaged_shard_of_a_complete_cache_is_written_again(
    dataset: Path, whole: Path, tmp_path: Path, damage: str
) -> None:
    out = tmp_path / "cache"
    write_cache(dataset, out, settings(), progress=False)
    shard = out / ("train-000001.index.npz" if damage == "index gone" else "train-000001.tar")
    if damage == "short":
        shard.write_bytes(shard.read_bytes()[:-1])
    else:
        shard.unlink()
    write_cache(dataset, out, settings(), progress=False)
    assert_same(out, whole)


@pytest.mark.parametrize("complete", [False, True])
@pytest.mark.parametrize(
    ("changes", "splits", "match"),
    [
        ({"feature_dtype": "bf16"}, None, "feature_dtype: int8 against bf16"),
        ({"batch_size": 3}, None, "batch_size: 2 against 3"),
        ({"shard_bytes": 7}, None, "shard_bytes: 60000 against 7"),
        ({}, ["val"], "splits: train, val against val"),
        ({"precision": "bf16"}, None, "precision: fp32 against bf16"),
    ],
)
def test_other_settings_are_refused_by_name(
    dataset: Path,
    whole: Path,
    tmp_path: Path,
    complete: bool,
    changes: dict[str, object],
    splits: list[str] | None,
    match: str,
) -> None:
    out = whole
    if not complete:
        out = tmp_path / "cache"
        write_cache(dataset, out, settings(), worker=Worker(0, 3), progress=False)
    before = files_below(out)
    with pytest.raises(InputError, match=match):
        write_cache(dataset, out, settings(**changes), splits, progress=False)
    assert files_below(out) == before


def test_other_weights_and_other_records_are_refused_by_their_hashes(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": default_records()})
    out = tmp_path / "cache"
    write_cache(dataset, out, settings(), worker=Worker(0, 2), progress=False)
    encoders = settings().encoders
    other = encoders.model_copy(update={"sam": encoders.sam.model_copy(update={"seed": 1})})
    with pytest.raises(InputError, match=r"sam\.seed: 0 against 1"):
        write_cache(dataset, out, settings(encoders=other.model_dump()), progress=False)
    reference = encoders.model_copy(
        update={"sam": encoders.sam.model_copy(update={"attention": "reference"})}
    )
    with pytest.raises(InputError, match=r"encoders\.sam\.attention: sdpa against reference"):
        write_cache(dataset, out, settings(encoders=reference.model_dump()), progress=False)
    lines = (dataset / "train.jsonl").read_text()
    (dataset / "train.jsonl").write_text(lines.replace("green one", "green two"))
    with pytest.raises(InputError, match=r"records of train \(SHA-256\): [0-9a-f]{64} against [0-9a-f]{64}"):
        write_cache(dataset, out, settings(), progress=False)


def test_a_shard_that_another_process_writes_is_refused(tmp_path: Path) -> None:
    with new_file(tmp_path / "shard.tar") as file:
        file.write(b"mine")
        with (
            pytest.raises(InputError, match=r"another process is writing .*shard\.tar;"),
            new_file(tmp_path / "shard.tar"),
        ):
            pytest.fail("two writers")
    assert (tmp_path / "shard.tar").read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["shard.tar"]


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_leaves_nothing_incomplete_and_says_how_to_resume(
    dataset: Path, whole: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    sizes = sorted(shard.bytes for shard in CacheJob(dataset, out, settings(), progress=False).plan)
    with no_file_beyond(sizes[-1] - 1), pytest.raises(InputError, match=r"no room for .* of 6 shards are"):
        write_cache(dataset, out, settings(), progress=False)
    expected = files_below(whole)
    left = files_below(out)
    assert left.pop("writing.json")
    assert all(expected[name] == content for name, content in left.items())
    assert_same_after_restart(dataset, out, whole)


@pytest.mark.parametrize(("shard", "room"), [(1, 0), (3, 12_288), (6, 4096)])
def test_a_disk_that_another_program_fills_leaves_whole_shards_and_says_how_to_resume(
    dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: int, room: int
) -> None:
    """The check at the start finds enough room; ``room`` bytes are left when ``shard`` begins."""
    begun = 0

    def filled(*arguments: Any) -> Iterator[EncodedGroup]:
        nonlocal begun
        begun += 1
        if begun == shard:
            disk.fill(but_for=room)
        return encode_groups(*arguments)

    expected = files_below(whole)
    with small_disk(tmp_path / "disk", "4m") as folder:
        disk = Disk(folder)
        with monkeypatch.context() as patch:
            patch.setattr(write_module, "encode_groups", filled)
            with pytest.raises(InputError, match=rf"No space left on device; {shard - 1} of 6 shards are"):
                write_cache(dataset, folder / "cache", settings(), progress=False)
        left = files_below(folder / "cache")
        assert left.pop("writing.json")
        assert all(expected[name] == content for name, content in left.items())
        disk.free()
        assert_same_after_restart(dataset, folder / "cache", whole)


def assert_same_after_restart(dataset: Path, out: Path, whole: Path) -> None:
    write_cache(dataset, out, settings(), progress=False)
    assert_same(out, whole)


@pytest.mark.parametrize("step", ["fsync", "rename"])
def test_a_disk_that_is_full_at_the_last_moment_loses_the_shard_but_not_the_cache(
    dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    out = tmp_path / "cache"
    calls = 0

    def fails_once(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 8:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*arguments)  # type: ignore[operator]

    owner = os if step == "fsync" else Path
    real = getattr(owner, step)
    with monkeypatch.context() as patch:
        patch.setattr(owner, step, fails_once)
        with pytest.raises(InputError, match="No space left on device"):
            write_cache(dataset, out, settings(), progress=False)
    assert not list(out.glob("*.part"))
    assert_same_after_restart(dataset, out, whole)


@pytest.mark.parametrize("feature_dtype", ["int8", "fp8", "bf16"])
def test_the_plan_knows_every_byte(dataset: Path, tmp_path: Path, feature_dtype: str) -> None:
    out = tmp_path / "cache"
    job = CacheJob(dataset, out, settings(feature_dtype=feature_dtype), progress=False)
    planned = job.outlook(estimate=False)
    assert not out.exists()
    job.write()
    for shard in job.plan:
        assert (out / shard.name).stat().st_size == shard.bytes
        assert (out / shard.index_name).stat().st_size == shard.index_bytes
    written = sum(path.stat().st_size for path in out.iterdir() if path.name != "manifest.json")
    assert written == planned.missing_bytes


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CacheJob, "free_bytes", lambda self: 1000)
    with pytest.raises(InputError, match=r"needs 0\.00 GB more.*fewer splits.*feature_dtype"):
        write_cache(dataset, tmp_path / "cache", settings(), progress=False)
    assert not (tmp_path / "cache").exists()


def test_plan_only_says_what_would_be_written(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    result = maris_fast(*command(dataset, out, "--plan")[3:])
    said = " ".join(result.output.split())
    assert result.exit_code == 0
    assert "in 6 shards (0 are written); free:" in said
    assert "from one batch at" in said
    assert not out.exists()
    result = maris_fast(*command(dataset, out, "--plan", "--no-estimate")[3:])
    assert "time: unknown" in result.output


def test_features_do_not_depend_on_where_shards_are_cut_if_batches_do_not(
    dataset: Path, whole: Path, tmp_path: Path
) -> None:
    # A batch never crosses shards, so with one image per batch only the cut differs.
    one, other = tmp_path / "one", tmp_path / "other"
    write_cache(dataset, one, settings(batch_size=1, shard_bytes=1), progress=False)
    write_cache(dataset, other, settings(batch_size=1, shard_bytes=1 << 30), progress=False)
    crcs = []
    for folder in (one, other):
        names = sorted(path for path in folder.glob("train-*.npz"))
        parts = [ShardIndex.from_bytes(path.read_bytes(), path) for path in names]
        crcs.append(ShardIndex.concatenate(parts).crc.tolist())
    assert crcs[0] == crcs[1]


def test_decoding_ahead_keeps_the_order(dataset: Path) -> None:
    records = many_records(12)
    sam = SamEncoder(settings().encoders.sam)
    text = TextEncoder(TextSettings(arch="tiny", weights="random"))
    for batch_size in (1, 5, 20):
        groups = encode_groups(iter(records), Photographs(str(dataset / "images")), sam, text, batch_size)
        assert [group.record for group in groups] == records
