"""Verification names every defect of a cache; damage that it does not name changes no sample."""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maris_fast.data_shards.cache import read_manifest, write_cache
from maris_fast.data_shards.cache.index import ShardIndex
from maris_fast.data_shards.cache.manifest import CacheManifest, members_of
from maris_fast.data_shards.cache.verify import VerifyReport, verify_cache
from maris_fast.errors import ConfigError, InputError
from tests.command_line import maris_fast, said
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset
from tests.data.far_servers import web_server
from tests.faults import small_disk


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    records = default_records()
    dataset = write_dataset(folder / "dataset", {"train": records, "val": records[:2]})
    settings = tiny_settings(shard_bytes=50_000, batch_size=5)
    write_cache(dataset, folder / "cache", settings, progress=False)
    return folder / "cache"


@pytest.fixture
def cache(pristine: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pristine, tmp_path / "cache"))


def verified(folder: Path, splits: list[str] | None = None) -> VerifyReport:
    return verify_cache(folder, splits, jobs=1, progress=False)


def samples(folder: Path) -> dict[tuple[str, int, str], bytes]:
    """Every member twice: its numbers as our index locates them, and as stock tools read it."""
    manifest = read_manifest(folder)
    found: dict[tuple[str, int, str], bytes] = {}
    for split, entry in manifest.splits.items():
        for shard in entry.shards:
            content = (folder / shard.name).read_bytes()
            index = ShardIndex.from_bytes((folder / shard.index_name).read_bytes(), folder)
            for image in range(index.images):
                for m, name in enumerate(members_of(manifest.feature_dtype)):
                    start = int(index.offset[image, m])
                    place = (split, int(index.image_id[image]), name)
                    found[place] = content[start : start + int(index.size[image, m])]
            with tarfile.open(fileobj=io.BytesIO(content)) as tar:
                for member in tar:
                    key, _, name = member.name.partition(".")
                    file = tar.extractfile(member)
                    assert file is not None
                    if name == "json":
                        found[split, int(key), "stock json"] = json.dumps(json.load(file)).encode()
                    else:
                        array = np.lib.format.read_array(io.BytesIO(file.read()))
                        told = f"{array.dtype}{array.shape}".encode()
                        found[split, int(key), f"stock {name}"] = told + array.tobytes()
    return found


def test_headers_of_a_whole_cache_are_not_evaluated(pristine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluating expressions in two threads at once sometimes fails in Python up to 3.11.7."""

    def two_threads_at_once(*_: object) -> None:
        raise SystemError("AST constructor recursion depth mismatch (before=42, after=38)")

    monkeypatch.setattr(np.lib.format, "read_array_header_1_0", two_threads_at_once)
    assert verify_cache(pristine, progress=False).problems == ()


def flip(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: chance.randrange(path.stat().st_size)])


def delete(path: Path, chance: random.Random) -> None:
    path.unlink()


def append(path: Path, chance: random.Random) -> None:
    path.write_bytes(path.read_bytes() + chance.randbytes(chance.choice((1, 512, 10_240))))


def zero_block(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = 512 * chance.randrange(-(-len(content) // 512))
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    path.write_bytes(content)


def swap(path: Path, chance: random.Random) -> None:
    other = chance.choice([each for each in path.parent.glob(f"*{path.suffix}") if each != path] or [path])
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def move_block(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    blocks = max(1, len(content) // 512)
    here, there = (512 * chance.randrange(blocks) for _ in range(2))
    content[here : here + 512], content[there : there + 512] = (
        content[there : there + 512],
        content[here : here + 512],
    )
    path.write_bytes(content)


CORRUPTIONS: tuple[Callable[[Path, random.Random], None], ...] = (
    flip, flip, flip, flip, truncate, delete, append, zero_block, swap, move_block,
)  # fmt: skip


@pytest.mark.slow
def test_a_thousand_corruptions_are_each_named_or_harmless(cache: Path, pristine: Path) -> None:
    chance = random.Random(7)
    names = sorted(path.name for path in pristine.iterdir())
    tars = [name for name in names if name.endswith(".tar")]
    original = samples(pristine)
    harmless = 0
    for number in range(1000):
        # Tars are most of a cache; the small files must get their share.
        name = chance.choice(tars if chance.random() < 0.6 else names)
        corrupt = chance.choice(CORRUPTIONS)
        corrupt(cache / name, chance)
        told = f"number {number}: {corrupt.__name__} of {name}"
        problems = problems_of(cache)
        if problems:
            stems = {problem.split(".")[0] for problem in problems}
            assert name.split(".")[0] in stems, told
        else:
            assert samples(cache) == original, told
            harmless += 1
        for each in names:
            if not (cache / each).exists() or (cache / each).read_bytes() != (pristine / each).read_bytes():
                shutil.copyfile(pristine / each, cache / each)
    # Padding, swaps of equal blocks and the like; with many of these the test would show nothing.
    assert harmless < 200


def problems_of(cache: Path) -> list[str]:
    """Problems as the command would print them, each starting with the name of a file."""
    try:
        return [str(problem) for problem in verified(cache).problems]
    except InputError:
        return [] if (cache / "manifest.json").exists() else ["manifest.json"]


def test_a_sound_cache_has_no_problems(cache: Path) -> None:
    report = verified(cache)
    assert report.problems == ()
    assert report.splits == ("train", "val")


def edit_index(cache: Path, change: Callable[[ShardIndex], None]) -> None:
    """Make an index disagree with its shard while every hash matches, as a faulty writer would."""
    manifest = read_manifest(cache)
    shard = manifest.splits["val"].shards[0]
    index = ShardIndex.from_bytes((cache / shard.index_name).read_bytes(), cache)
    change(index)
    (cache / shard.index_name).write_bytes(index.to_bytes())
    values = manifest.model_dump()
    values["splits"]["val"]["shards"][0]["index_sha256"] = hashlib.sha256(index.to_bytes()).hexdigest()
    reseal(cache, values)


def reseal(cache: Path, values: dict[str, Any]) -> None:
    manifest = CacheManifest.model_validate(values).sealed()
    (cache / "manifest.json").write_text(manifest.model_dump_json())


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("words", r"words\.npy\): is float16|json\): disagrees with the index in words"),
        ("target", r"json\): disagrees with the index in expressions"),
        ("object", r"json\): disagrees with the index in objects"),
        ("targets", r"json\): disagrees with the index in targets"),
        ("geometry", r"json\): disagrees with the index in geometry"),
        ("crc", r"json\): is not what was written"),
        ("offset", r"json\): is elsewhere in the tar"),
        ("size", r"json\): is elsewhere in the tar"),
        ("image_id", r"the tar has .* in its place"),
    ],
)
def test_an_index_that_disagrees_with_its_shard_is_named(cache: Path, column: str, message: str) -> None:
    def change(index: ShardIndex) -> None:
        changed = getattr(index, column).copy()
        changed.flat[0] += 1
        object.__setattr__(index, column, changed)

    edit_index(cache, change)
    assert any(_matches(message, str(problem)) for problem in verified(cache).problems)
    assert verified(cache, ["train"]).problems == ()


def _matches(pattern: str, text: str) -> bool:
    return re.search(pattern, text) is not None


@pytest.mark.parametrize("count", ["images", "targets", "expressions", "truncated_expressions", "bytes"])
def test_a_wrong_count_is_named(cache: Path, count: str) -> None:
    values = read_manifest(cache).model_dump()
    values["splits"]["train"][count] += 1
    reseal(cache, values)
    (problem,) = verified(cache).problems
    assert f"{count}, the manifest says" in str(problem)


def test_the_same_images_twice_are_named(cache: Path) -> None:
    values = read_manifest(cache).model_dump()
    first = values["splits"]["train"]["shards"][0]
    values["splits"]["train"]["shards"] += ({**first, "name": "train-000099.tar"},)
    shutil.copyfile(cache / first["name"], cache / "train-000099.tar")
    shutil.copyfile(cache / "train-000000.index.npz", cache / "train-000099.index.npz")
    reseal(cache, values)
    assert any("appears more than once in train" in str(problem) for problem in verified(cache).problems)


@pytest.mark.parametrize("name", ["train-000099.tar", "x.index.npz", "train-000000.tar.part", "writing.json"])
def test_a_stray_file_is_named(cache: Path, name: str) -> None:
    (cache / name).write_bytes(b"")
    (problem,) = verified(cache).problems
    assert str(problem) == f"{name}: does not belong to this cache; delete it"


def test_an_edited_manifest_is_named(cache: Path) -> None:
    text = (cache / "manifest.json").read_text()
    (cache / "manifest.json").write_text(text.replace('"seed": 0', '"seed": 1'))
    (problem,) = verified(cache).problems
    assert "its checksum does not fit" in str(problem)


def test_the_command_says_what_is_wrong_and_ends_with_status_1(cache: Path) -> None:
    good = maris_fast("verify", str(cache))
    assert good.exit_code == 0, good.output
    assert "every member is what was written" in good.output
    path = cache / "train-000000.tar"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    bad = maris_fast("verify", str(cache), "--jobs", "2")
    assert bad.exit_code == 1
    assert "train-000000.tar (00000000000" in bad.output
    assert "1 problems" in bad.output
    other = maris_fast("verify", str(cache), "--split", "val")
    assert other.exit_code == 0
    none = maris_fast("verify", str(cache), "--split", "tset")
    assert none.exit_code == 2


def test_a_full_temporary_folder_is_named_and_no_shard_is(
    pristine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with small_disk(tmp_path / "disk", "16k") as disk, web_server(pristine) as far:
        monkeypatch.setattr(tempfile, "tempdir", str(disk))
        with pytest.raises(
            ConfigError, match=rf"folder {disk} cannot hold .* No space left .*TMPDIR.*`jobs`"
        ):
            verify_cache(far.address, progress=False)
        done = maris_fast("verify", far.address)
        assert done.exit_code == 2
        assert "set TMPDIR to another folder, or lower --jobs" in said(done)
        assert ".tar" not in said(done)
        assert not verified(pristine).problems  # a folder needs no copies
