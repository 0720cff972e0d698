"""A cache written to an address has the files of one in a folder, however often it was interrupted."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from maris_fast.data_shards.cache import destination, read_manifest, write_cache
from maris_fast.data_shards.cache.workers import Worker
from maris_fast.data_shards.stream import CacheReader
from maris_fast.errors import ConfigError, InputError
from maris_fast.system.object_store import StoreError
from tests.data.cache_dataset import tiny_settings
from tests.data.far_servers import Far, s3_server
from tests.data.test_stream_staging import everything
from tests.faults import small_disk
from tests.folders import files_below
from tests.training.processes import run, start
from tests.training.tiny_cache import write_tiny_cache

SHARDS = 7


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_tiny_cache(tmp_path_factory.mktemp("local"), shard_bytes=1)
    assert len(list(folder.glob("*.tar"))) == SHARDS
    return folder


@pytest.fixture
def dataset(cache: Path) -> Path:
    return cache.parent / "dataset"


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    (tmp_path / "nothing").mkdir()
    with s3_server(tmp_path / "nothing", monkeypatch) as server:
        yield server


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the shards that were encoded and written."""
    names: list[str] = []
    real = destination.write_shard

    def write_shard(folder: Path, plan: Any, *others: Any, **named: Any) -> None:
        real(folder, plan, *others, **named)
        names.append(plan.name)

    monkeypatch.setattr(destination, "write_shard", write_shard)
    return names


def files(far: Far) -> dict[str, bytes]:
    return {name: far.get(name) for name in far.names()}


def test_the_files_are_those_of_a_folder_and_nothing_stays_behind(
    far: Far, dataset: Path, cache: Path, tmp_path: Path
) -> None:
    scratch = tmp_path / "scratch"
    settings = tiny_settings(shard_bytes=1)
    manifest = write_cache(dataset, far.address, settings, progress=False, scratch=scratch)
    assert manifest == read_manifest(cache) == read_manifest(far.address)
    assert files(far) == files_below(cache)
    assert not [path for path in scratch.rglob("*") if path.is_file()]
    with CacheReader(far.address, "train") as there, CacheReader(cache, "train") as here:
        assert everything(there) == everything(here)


def test_an_upload_that_fails_is_named_and_the_next_start_resumes(
    far: Far, dataset: Path, cache: Path, tmp_path: Path, written: list[str]
) -> None:
    settings = tiny_settings(shard_bytes=1)

    def write() -> None:
        write_cache(dataset, far.address, settings, progress=False, scratch=tmp_path / "scratch")

    for name in (
        "writing.json",
        "train-000002.index.npz",
        "train-000004.tar",
        "val-000000.tar",
        "manifest.json",
    ):
        far.faults.of = lambda one, _, name=name: 403 if one == name else None
        with pytest.raises(StoreError, match=rf"{name}: 403 Forbidden \(ExpiredToken\); set or renew AWS_"):
            write()
        far.faults.of = lambda *_: None
        with pytest.raises(InputError, match="no complete one"):
            read_manifest(far.address)
    write()
    assert files(far) == files_below(cache)
    assert sorted(written) == sorted(path.name for path in cache.glob("*.tar"))  # each once


def test_workers_share_an_address_and_the_last_writes_the_manifest(
    far: Far, dataset: Path, cache: Path, tmp_path: Path
) -> None:
    settings = tiny_settings(shard_bytes=1)
    for rank in (1, 0):
        manifest = write_cache(
            dataset,
            far.address,
            settings,
            worker=Worker(rank=rank, world=2),
            progress=False,
            scratch=tmp_path / f"machine {rank}",
        )
        assert (manifest is None) == (rank == 1)
    assert files(far) == files_below(cache)


def test_a_shard_that_was_removed_is_written_again(
    far: Far, dataset: Path, cache: Path, tmp_path: Path, written: list[str]
) -> None:
    settings = tiny_settings(shard_bytes=1)
    for _ in range(2):
        write_cache(dataset, far.address, settings, progress=False, scratch=tmp_path / "scratch")
        far.remove("train-000003.tar")
    write_cache(dataset, far.address, settings, progress=False, scratch=tmp_path / "scratch")
    assert written.count("train-000003.tar") == 3
    assert len(written) == SHARDS + 2
    assert files(far) == files_below(cache)


def test_what_is_not_ours_is_left_alone(far: Far, dataset: Path, tmp_path: Path) -> None:
    def write(address: str, **settings: Any) -> None:
        changed = tiny_settings(shard_bytes=1, **settings)
        write_cache(dataset, address, changed, progress=False, scratch=tmp_path / "scratch")

    far.put("notes.txt", b"mine")
    with pytest.raises(InputError, match=rf"output folder {far.address} is not empty"):
        write(far.address)
    assert files(far) == {"notes.txt": b"mine"}
    far.remove("notes.txt")
    write(far.address)
    with pytest.raises(InputError, match=r"holds a cache made with other settings.*feature_dtype"):
        write(far.address, feature_dtype="bf16")


@pytest.mark.parametrize("address", ["https://host/cache", "hf://datasets/org/name"])
def test_other_addresses_are_refused(dataset: Path, address: str) -> None:
    with pytest.raises(ConfigError, match=r"caches are written to folders and to s3:// and gs:// addresses"):
        write_cache(dataset, address, tiny_settings())


def test_a_scratch_folder_below_a_file_is_reported(far: Far, dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("kept")
    scratch = tmp_path / "notes.txt" / "scratch"
    with pytest.raises(InputError, match=r"notes\.txt/scratch\S* cannot be written: .*with `scratch`"):
        write_cache(dataset, far.address, tiny_settings(), progress=False, scratch=scratch)
    assert (tmp_path / "notes.txt").read_text() == "kept"


def test_a_scratch_disk_that_is_too_small_is_reported_before_anything_is_encoded(
    far: Far, dataset: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "16k") as disk, pytest.raises(InputError, match=r"`scratch`"):
        write_cache(dataset, far.address, tiny_settings(shard_bytes=1), progress=False, scratch=disk)
    assert not files(far)


@pytest.mark.process
def test_the_command_resumes_after_being_killed_during_an_upload(
    far: Far, dataset: Path, cache: Path, tmp_path: Path
) -> None:
    far.faults.latency = 0.15
    tiny = ("encoders.sam.arch=vit_tiny", "encoders.sam.weights=random", "encoders.sam.image_size=128")
    text = ("encoders.text.arch=tiny", "encoders.text.weights=random", "device=cpu", "shard_bytes=1")
    command = (
        "maris-fast",
        "cache",
        dataset,
        "--out",
        far.address,
        "--scratch",
        tmp_path / "scratch",
        *tiny,
        *text,
    )
    process = start(*command)
    before = time.monotonic()
    while "train-000001.tar" not in far.names():
        assert process.poll() is None
        assert time.monotonic() - before < 200
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert "manifest.json" not in far.names()
    done = run(*command)
    assert done.returncode == 0, done.stderr[-4000:]
    assert files(far) == files_below(cache)
