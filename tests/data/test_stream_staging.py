"""Shards streamed through a pipe give the batches of the local folder, within the staging folder's bound."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from maris_fast.config import ReadingSettings
from maris_fast.data_shards.cache import CacheManifest, read_manifest, write_cache
from maris_fast.data_shards.stream import Batch, CacheReader
from maris_fast.data_shards.stream.staging_folder import StagingFolder, open_copy, partial_of
from maris_fast.errors import ConfigError, InputError
from maris_fast.system import locks, process_table
from maris_fast.system.locks import Owner, lock_beside, lock_in, owned_folder
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset
from tests.faults import small_disk
from tests.training.processes import free_port

PLAN = {"seed": 0, "epoch": 0, "expressions_per_step": 4, "expressions_per_image": 3}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("far away")
    dataset = write_dataset(folder / "dataset", {"train": default_records()})
    write_cache(dataset, folder / "cache", tiny_settings(shard_bytes=1), progress=False)
    assert len(shard_sizes(folder / "cache")) == 5
    return folder / "cache"


def shard_sizes(folder: Path) -> list[int]:
    return [path.stat().st_size for path in folder.glob("*.tar")]


def staged(folder: Path, command: str, **settings: Any) -> ReadingSettings:
    return ReadingSettings(shards=f"pipe:{command}", staging=folder, **settings)


def largest_pages(cache: Path) -> int:
    return -(-max(shard_sizes(cache)) // 4096)


def content(batch: Batch) -> tuple[Any, ...]:
    tensors = (*batch.features, batch.words, batch.word_mask, batch.targets, batch.weights)
    return (*(tensor.numpy().tobytes() for tensor in tensors), batch.samples)


def everything(reader: CacheReader) -> list[tuple[Any, ...]]:
    return [content(one) for one in (*reader.batches(**PLAN), *reader.evaluation_batches(max_expressions=6))]


def leftovers(folder: Path) -> list[Path]:
    return list(folder.glob(".*.partial"))


@pytest.mark.parametrize("room", [1, 2, 5])
def test_batches_through_a_pipe_are_those_of_the_folder(cache: Path, tmp_path: Path, room: int) -> None:
    with CacheReader(cache, "train") as local:
        whole = everything(local)
    bound = room * max(shard_sizes(cache))
    log = tmp_path / "log"
    settings = staged(
        tmp_path / "staging",
        f"echo {{name}} >> {log}; cat '{cache}/{{name}}'",
        staging_bytes=bound,
    )
    with CacheReader(tmp_path / "no cache here", "train", settings) as reader:
        found = []
        for batch in (*reader.batches(**PLAN), *reader.evaluation_batches(max_expressions=6)):
            found.append(content(batch))
            with owned_folder(tmp_path / "staging", wait=True):  # none is evicted while they are counted
                assert sum(shard_sizes(tmp_path / "staging")) <= bound
        assert found == whole
    fetched = [line for line in log.read_text().split() if line.endswith(".tar")]
    assert set(fetched) == {path.name for path in cache.glob("*.tar")}
    assert (len(fetched) > 5) == (room < 5)
    assert not leftovers(tmp_path / "staging")


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("head -c 5000 '{cache}/{{name}}'", r"train-00000\d\.tar' ends after 5000 of"),
        ("cat '{cache}/{{name}}' /etc/hostname", r"goes on beyond the \d+ bytes"),
        ("cat '{cache}/{{name}}' /dev/zero || exit 7", r"goes on beyond the \d+ bytes"),
        ("head -c 5000 '{cache}/{{name}}'; exit 3", r"train-00000\d\.tar.*cannot be streamed: .*exit 3"),
    ],
)
def test_a_stream_that_ends_wrongly_is_named_and_leaves_nothing(
    cache: Path, tmp_path: Path, command: str, says: str
) -> None:
    settings = staged(tmp_path / "staging", command.format(cache=cache))
    with CacheReader(cache, "train", settings) as reader, pytest.raises(InputError, match=says):
        everything(reader)
    assert not leftovers(tmp_path / "staging")
    assert not shard_sizes(tmp_path / "staging")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://bucket/{name}", "ValueError: .*no gopen handler"),
        ("http://[::1/{name}", "ValueError: Invalid IPv6 URL"),
        ("http://127.0.0.1:{port}/{name}", "OSError: .*curl.*exit 7"),
        ("hf:///{name}", "HfUriError: Invalid HF URI"),
        ("hf://datasets/nobody/nothing/{name}", r"\w+Error: "),  # no network, or no such data set
    ],
)
def test_a_url_that_cannot_be_opened_is_named(
    tmp_path: Path, url: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = url.replace("{port}", str(free_port()))  # nothing listens on it
    settings = ReadingSettings(shards=url, staging=tmp_path / "staging")
    opened = re.escape(url.replace("{name}", "manifest.json"))
    with pytest.raises(InputError, match=rf"{opened} cannot be streamed: {says}.*check data\.shards"):
        CacheReader(tmp_path, "train", settings)


def test_a_full_staging_disk_is_named_and_nothing_half_stays(cache: Path, tmp_path: Path) -> None:
    heads = [cache / "manifest.json", *cache.glob("*.npz")]
    pages = sum(-(-path.stat().st_size // 4096) for path in heads)
    # From no room for manifest and indexes to part of a second shard: each file is once the first not to fit.
    for most in (1, *range(pages, pages + 2 * largest_pages(cache))):
        with small_disk(tmp_path / "disk", f"{4 * most}k") as disk:
            settings = staged(disk / "staging", f"cat '{cache}/{{name}}'")
            with (
                pytest.raises(ConfigError, match=r"data\.staging .* cannot be written: .*No space left"),
                CacheReader(tmp_path, "train", settings) as reader,
            ):
                everything(reader)
            assert not leftovers(disk / "staging")
            assert set(shard_sizes(disk / "staging")) <= set(shard_sizes(cache))


def test_a_full_staging_disk_is_named_though_the_command_fails_on_the_closed_pipe(
    cache: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", "16k") as disk:
        settings = staged(disk / "staging", f"cat '{cache}/{{name}}' /dev/zero || exit 7")
        with (
            CacheReader(cache, "train", settings) as reader,
            pytest.raises(ConfigError, match=r"data\.staging .* cannot be written: .*No space left"),
        ):
            everything(reader)


def test_a_stream_that_hangs_is_named(cache: Path, tmp_path: Path) -> None:
    settings = staged(tmp_path / "staging", "exec sleep 8 # {name}", stall_seconds=0.5)
    before = time.monotonic()
    with (
        CacheReader(cache, "train", settings) as reader,
        pytest.raises(InputError, match=r"# train-00000\d\.tar, image 0{11}\d: no answer"),
    ):
        everything(reader)
    assert time.monotonic() - before < 7


@pytest.mark.parametrize("name", ["manifest.json", "train-000001.index.npz"])
def test_of_a_stream_without_end_only_so_much_is_taken(cache: Path, tmp_path: Path, name: str) -> None:
    """``yes`` streams endlessly in place of the manifest or of an index, and fails once nobody reads."""
    command = f"case {{name}} in {name}) yes || exit 7;; *) cat '{cache}'/{{name}};; esac"
    with pytest.raises(InputError, match=rf"has more than [\d,]+ bytes, so it is not a {name}"):
        CacheReader(tmp_path / "nowhere", "train", staged(tmp_path / "staging", command))
    assert not leftovers(tmp_path / "staging")


def test_a_byte_changed_on_a_later_passage_is_found(cache: Path, tmp_path: Path) -> None:
    """Also with ``verify: first``: each passage counts as a first read."""
    place = CacheReader(cache, "train").index.offset[0, 3] + 9
    far = f"'{cache}/{{name}}'"
    spoilt = f"head -c {place} {far}; printf '\\377\\376\\375'; tail -c +{place + 4} {far}"
    passed = f"{tmp_path}/passed-{{name}}"
    command = f"if [ -e {passed} ]; then {spoilt}; else touch {passed}; cat {far}; fi"
    settings = staged(tmp_path / "staging", command, staging_bytes=max(shard_sizes(cache)), verify="first")
    with (
        CacheReader(cache, "train", settings) as reader,
        pytest.raises(InputError, match=r"image 0{11}\d: \w+\.npy is not what was written"),
    ):
        [everything(reader) for _ in range(3)]
    assert len(list(tmp_path.glob("passed-*.tar"))) >= 1


def test_what_a_killed_process_left_is_not_in_the_way(cache: Path, tmp_path: Path) -> None:
    folder, bound = tmp_path / "staging", max(shard_sizes(cache))
    settings = staged(folder, f"cat '{cache}/{{name}}'", staging_bytes=bound)
    with CacheReader(cache, "train", settings) as reader:
        folder.mkdir(exist_ok=True)
        dead = folder / f".{'0' * 16}-train-000007.tar.partial"
        dead.write_bytes(bytes(bound))
        everything(reader)
        assert not dead.exists()


def test_only_copies_of_shards_are_evicted(cache: Path, tmp_path: Path) -> None:
    folder, bound = tmp_path / "staging", max(shard_sizes(cache))
    foreign = [folder / "backup.tar", folder / "0123-notes.kept", folder / ".film.partial"]
    folder.mkdir()
    for path in foreign:
        path.write_bytes(bytes(bound))
    (folder / "download.partial").mkdir()
    copy = folder / f"{'a' * 16}-train-000000.tar"
    copy.write_bytes(bytes(bound))
    settings = staged(folder, f"cat '{cache}/{{name}}'", staging_bytes=bound)
    with CacheReader(cache, "train", settings) as reader:
        everything(reader)
    assert not copy.exists()
    assert [path.stat().st_size for path in foreign] == 3 * [bound]


@pytest.mark.parametrize("is_read", [False, True])
def test_the_copy_that_was_read_longest_ago_makes_room(tmp_path: Path, is_read: bool) -> None:
    older, newer, fetched = (tmp_path / f"{letter * 16}-train-000000.tar" for letter in "abc")
    for path, used in ((older, 1000), (newer, 2000)):
        path.write_bytes(bytes(4096))
        os.utime(path, (used, used))
    if is_read:
        file = open_copy(older)
        assert file is not None
        os.close(file)
    StagingFolder(tmp_path, most=2 * 4096).reserve(partial_of(fetched), 4096, lambda: None)
    assert (older.exists(), newer.exists()) == (is_read, not is_read)
    assert partial_of(fetched).stat().st_size == 4096


def leave_lock(lock: Path, **changes: Any) -> None:
    """Write a lock as its owner would, on another boot of this machine unless ``changes`` say otherwise."""
    owner = replace(Owner.here(), **{"boot": "another", **changes})
    lock.parent.mkdir(parents=True, exist_ok=True)
    lock.write_text(json.dumps(asdict(owner)))


def copies(cache: Path, folder: Path) -> list[Path]:
    """Where the copies of the cache's shards are staged."""
    entries = read_manifest(cache).splits["train"].shards
    return [folder / f"{entry.index_sha256[:16]}-{entry.name}" for entry in entries]


@pytest.mark.parametrize("stale", ["copies", "folder", "another cache's copy"])
def test_locks_left_before_a_reboot_are_taken_over_though_that_takes_longer_than_a_stall(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stale: str
) -> None:
    monkeypatch.setattr(locks, "LEASE", 5.0)
    folder, most = tmp_path / "staging", sum(shard_sizes(cache))
    if stale == "copies":
        for path in copies(cache, folder):
            leave_lock(lock_beside(path))
    elif stale == "folder":
        leave_lock(lock_in(folder))
    else:
        other = folder / f"{'0' * 16}-train-000000.tar"
        leave_lock(lock_beside(other))
        partial_of(other).write_bytes(bytes(most))
    settings = staged(folder, f"cat '{cache}/{{name}}'", stall_seconds=3, staging_bytes=most)
    with CacheReader(cache, "train") as local, CacheReader(cache, "train", settings) as reader:
        before = time.monotonic()
        assert everything(reader) == everything(local)
        assert time.monotonic() - before > 5
    assert not list(folder.glob(".*"))


def test_an_owner_that_lives_and_fetches_nothing_is_a_stall(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "staging"
    with subprocess.Popen(["sleep", "60"]) as idle:
        here = {"boot": Owner.here().boot, "pid": idle.pid, "started": process_table.started(idle.pid)}
        for path in copies(cache, folder):
            leave_lock(lock_beside(path), **here)
        settings = staged(folder, f"cat '{cache}/{{name}}'", stall_seconds=0.5)
        with (
            pytest.raises(InputError, match=r"train-00000\d\.tar'?, image 0{11}\d: no answer"),
            CacheReader(cache, "train", settings) as reader,
        ):
            everything(reader)
        idle.kill()


RANK = """
import hashlib, sys
from pathlib import Path
from maris_fast.config import ReadingSettings
from maris_fast.data_shards.stream import CacheReader
from tests.data.test_stream_staging import everything
cache, staging, bound = sys.argv[1:]
url = f"pipe:cat '{cache}/{{name}}'"
settings = ReadingSettings(shards=url, staging=Path(staging), staging_bytes=int(bound))
with CacheReader(Path(cache), "train", settings) as reader:
    print(hashlib.sha256(repr(everything(reader)).encode()).hexdigest())
"""


@pytest.mark.process
def test_ranks_share_one_folder(cache: Path, tmp_path: Path) -> None:
    with CacheReader(cache, "train") as local:
        expected = hashlib.sha256(repr(everything(local)).encode()).hexdigest()
    bound = 2 * max(shard_sizes(cache))
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(cache), str(tmp_path / "staging"), str(bound)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        for _ in range(2)
    ]
    for rank in ranks:
        assert rank.communicate(timeout=100)[0].split() == [expected]
        assert rank.returncode == 0
    assert sum(shard_sizes(tmp_path / "staging")) <= bound
    assert not leftovers(tmp_path / "staging")


def test_settings_that_cannot_work_are_refused(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"data\.staging_bytes = 10 cannot hold a shard"):
        CacheReader(cache, "train", staged(tmp_path / "staging", "cat {name}", staging_bytes=10))
    with pytest.raises(ValidationError, match=r"where the shard's \{name\} goes"):
        ReadingSettings(shards="pipe:cat", staging=tmp_path)
    with pytest.raises(ValidationError, match=r"data\.shards needs data\.staging"):
        ReadingSettings(shards="pipe:cat {name}")
    with pytest.raises(InputError, match="check data"):
        CacheReader(tmp_path, "train", staged(tmp_path / "staging", "exit 1 # {name}"))


def test_a_manifest_cannot_smuggle_a_command(cache: Path, tmp_path: Path) -> None:
    evil = tmp_path / "evil"
    evil.mkdir()
    manifest = read_manifest(cache).model_dump()
    manifest["splits"]["train"]["shards"][0]["name"] = "a; touch trapped.tar"
    sealed = CacheManifest.model_validate(manifest).sealed()
    (evil / "manifest.json").write_text(sealed.model_dump_json())
    with pytest.raises(InputError, match="not a plain file name"):
        CacheReader(tmp_path, "train", staged(tmp_path / "staging", f"cat '{evil}/{{name}}'"))
    assert not Path("trapped").exists()
