"""``maris-fast push`` of a cache and of an imported data set, and reading what was pushed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from maris_fast.data_shards.cache import read_manifest, write_cache
from maris_fast.data_shards.cache.verify import verify_cache
from maris_fast.data_shards.records import ImportedDataset, LeftOut, LostCounts
from maris_fast.data_shards.stream import CacheReader
from maris_fast.sharing.data_folder import write_data_folder
from tests.command_line import maris_fast, said
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset
from tests.folders import files_below
from tests.sharing.hub_server import TOKEN, Hub

SECRETS = (b"/tmp", b"/root", b"/home", b"pytest")


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = default_records()
    splits = {"train": records, "val": records[:2]}
    return write_dataset(tmp_path_factory.mktemp("data") / "boxes", splits)


@pytest.fixture(scope="module")
def cache(dataset: Path) -> Path:
    out = dataset.parent / "cache"
    write_cache(dataset, out, tiny_settings(shard_bytes=50_000, batch_size=5), progress=False)
    return out


def contents(cache: str | Path) -> list[tuple[list[str], list[np.ndarray]]]:
    with CacheReader(cache, "train") as reader:
        return [
            ([one.text for one in batch.samples], [level.numpy() for level in batch.features])
            for batch in reader.batches(seed=0, epoch=0, expressions_per_step=4, expressions_per_image=2)
        ]


def front_matter(files: dict[str, bytes]) -> dict[str, Any]:
    values: dict[str, Any] = yaml.safe_load(files["README.md"].decode().split("---\n", 2)[1])
    return values


def test_a_cache_is_pushed_with_its_manifest_last_and_read_from_the_hub(
    cache: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    done = maris_fast("push", cache, "org/boxes", "--license", "cc-by-4.0", "--private")
    assert done.exit_code == 0, said(done)
    assert "note: it holds the data set's sentences and masks" in said(done)
    repository = hub.repositories["datasets/org/boxes"]
    assert repository.private
    assert repository.messages == ["Push cache: files", "Push cache"]
    whole = {one.name for one in cache.iterdir()} | {"README.md"}
    assert repository.commits == [whole - {"manifest.json", "README.md"}, whole]
    manifest = json.loads(repository.files["manifest.json"])
    assert (manifest["dataset"]["image_root"], manifest["dataset"]["name"]) == ("images", "boxes")
    for name in ("manifest.json", "README.md"):
        assert not any(secret in repository.files[name] for secret in SECRETS), name
    there = "hf://datasets/org/boxes"
    assert verify_cache(there, progress=False).problems == ()
    np.testing.assert_equal(contents(there), contents(cache))
    assert front_matter(repository.files) == {
        "license": "cc-by-4.0",
        "pretty_name": "boxes",
        "size_categories": ["n<1K"],
        "tags": ["referring-image-segmentation", "maris", "maris-fast"],
        "task_categories": ["image-segmentation"],
    }
    card = repository.files["README.md"].decode()
    entry = read_manifest(cache).splits["train"]
    counts = (
        f"| train | {entry.images} | {entry.targets} | {entry.expressions} | {len(entry.shards)} | 0.00 |"
    )
    assert counts in card
    assert "data.cache=hf://datasets/org/boxes" in card
    assert "random weights of seed 0" in card


def test_a_cache_of_some_splits_has_their_size_and_cautions_alone(dataset: Path, tmp_path: Path) -> None:
    lost = LostCounts(rows=1, expressions=2, images=0)
    left_out = LeftOut(**lost.model_dump(), reasons={"missing images": lost})
    info = ImportedDataset(dataset).info
    large = info.splits["train"].model_copy(update={"images": 5_000})
    changes = {"splits": {**info.splits, "train": large}, "left_out": {"train": left_out, "val": left_out}}
    copy = Path(shutil.copytree(dataset, tmp_path / "dataset"))
    (copy / "dataset.json").write_text(info.model_copy(update=changes).model_dump_json())
    write_cache(copy, tmp_path / "cache", tiny_settings(), ["val"], progress=False)
    said_of = {}
    for source, size in ((tmp_path / "cache", "n<1K"), (copy, "1K<n<10K")):
        out = tmp_path / "files" / source.name
        out.mkdir(parents=True)
        notes = write_data_folder(source, out, repository="org/boxes", license="mit")
        assert front_matter(files_below(out))["size_categories"] == [size]
        said_of[source.name] = [note.partition(" is not complete")[0] for note in notes if "complete" in note]
    assert said_of == {"cache": ["val"], "dataset": ["train", "val"]}


def test_shards_of_an_earlier_push_go(cache: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert maris_fast("push", cache, "org/boxes").exit_code == 0
    files = hub.repositories["datasets/org/boxes"].files
    files |= {"train-000099.tar": b"", "train-000099.index.npz": b"", "LICENSE": b"mine"}
    assert maris_fast("push", cache, "org/boxes").exit_code == 0
    assert files.keys() == {one.name for one in cache.iterdir()} | {"README.md", "LICENSE"}


def test_an_imported_data_set_is_pushed_without_places(dataset: Path, hub: Hub, tmp_path: Path) -> None:
    done = maris_fast("push", dataset, "org/boxes", "--out", tmp_path / "files")
    assert done.exit_code == 0, said(done)
    assert "the card names no license; say which with --license" in said(done)
    assert hub.requests == []
    there = ImportedDataset(tmp_path / "files")
    assert there.info.image_root == "images"
    assert [*there.records("val")] == [*ImportedDataset(dataset).records("val")]
    card = (tmp_path / "files" / "README.md").read_text()
    assert "images=PHOTOGRAPHS" in card
    assert "which `1.png` is below" in card
    assert not any(secret in card.encode() for secret in SECRETS)


def test_an_address_of_photographs_is_shared_without_user_name_and_password(
    dataset: Path, cache: Path, tmp_path: Path
) -> None:
    there = "https://someone:secret@photographs.org"
    head = json.loads((dataset / "dataset.json").read_text())
    copies = [shutil.copytree(one, tmp_path / one.name) for one in (dataset, cache)]
    (copies[0] / "dataset.json").write_text(json.dumps({**head, "image_root": there}))
    manifest = read_manifest(cache)
    info = manifest.dataset.model_copy(update={"image_root": there})
    (copies[1] / "manifest.json").write_text(
        manifest.model_copy(update={"dataset": info}).sealed().model_dump_json()
    )
    for copy in copies:
        out = tmp_path / "files" / copy.name
        out.mkdir(parents=True)
        write_data_folder(copy, out, repository="org/boxes", license=None)
        for name in {"dataset.json", "manifest.json", "README.md"} & {one.name for one in out.iterdir()}:
            content = (out / name).read_text()
            assert ("photographs.org" in content) == (name != "README.md")
            assert not any(secret in content for secret in ("someone", "secret")), name


def test_what_is_not_whole_is_not_pushed(cache: Path, hub: Hub, tmp_path: Path) -> None:
    def told(folder: Path) -> str:
        done = maris_fast("push", folder, "org/boxes", "--out", tmp_path / "files")
        assert done.exit_code == 2, said(done)
        assert not (tmp_path / "files").exists()
        return said(done)

    copy = Path(shutil.copytree(cache, tmp_path / "cache"))
    shard = copy / "train-000000.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    assert f"{shard} has {len(whole) - 1:,} bytes, its manifest says {len(whole):,}" in told(copy)
    shard.unlink()
    assert f"{shard} is missing" in told(copy)
    (copy / "manifest.json").write_text("{}")
    assert "is damaged or of another format" in told(copy)
    assert "is not the folder of a run, of a cache or of an imported data set" in told(tmp_path)
