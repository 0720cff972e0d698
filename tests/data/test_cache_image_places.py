"""Caching images from another folder or an address gives the same as from the folder of the import."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from maris_fast.data_shards.cache import photographs, read_manifest, write_cache
from maris_fast.data_shards.cache.manifest import CacheManifest
from maris_fast.errors import InputError
from maris_fast.system.object_store import StoreError
from tests.command_line import maris_fast, said
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset
from tests.data.far_servers import Far, s3_server, web_server


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", {"train": default_records()})


@pytest.fixture
def moved(dataset: Path, tmp_path: Path) -> Path:
    """The new folder of the images, which the data set does not know."""
    return Path(shutil.move(dataset / "images", tmp_path / "elsewhere"))


@pytest.fixture
def shards(dataset: Path, tmp_path: Path) -> dict[str, bytes]:
    """Files, except the manifest, of a cache that was written before the images moved."""
    write_cache(dataset, tmp_path / "before", tiny_settings(), progress=False)
    return bytes_of(tmp_path / "before")


def bytes_of(cache: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in cache.iterdir() if path.name != "manifest.json"}


def cached(dataset: Path, out: Path, images: Path | str, *, leave_out_bad: bool = False) -> CacheManifest:
    settings = tiny_settings(images=str(images))
    manifest = write_cache(dataset, out, settings, leave_out_bad=leave_out_bad, progress=False)
    assert manifest is not None
    return manifest


@contextmanager
def served(kind: str, images: Path, environment: pytest.MonkeyPatch) -> Iterator[Far]:
    with web_server(images) if kind == "http" else s3_server(images, environment) as far:
        yield far


def test_a_folder_that_moved_is_named_and_the_shards_are_the_same(
    shards: dict[str, bytes], dataset: Path, moved: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"no image .*1\.png"):
        write_cache(dataset, tmp_path / "cache", tiny_settings(), progress=False)
    manifest = cached(dataset, tmp_path / "cache", moved)
    assert bytes_of(tmp_path / "cache") == shards
    assert read_manifest(tmp_path / "cache").dataset.image_root == str(moved)
    assert manifest.dataset.image_root == str(moved)


@pytest.mark.parametrize("kind", ["http", "s3"])
def test_images_at_an_address_give_the_same_shards(
    kind: str,
    shards: dict[str, bytes],
    dataset: Path,
    moved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with served(kind, moved, monkeypatch) as far:
        cached(dataset, tmp_path / "cache", far.address)
    assert bytes_of(tmp_path / "cache") == shards


def test_an_image_that_is_not_there_or_is_none_is_left_out_with_its_address(
    dataset: Path, moved: Path, tmp_path: Path
) -> None:
    (moved / "1.png").unlink()
    (moved / "2.png").write_text("<html>you are not logged in</html>")
    (moved / "3.png").write_bytes((moved / "3.png").read_bytes()[:20])
    with web_server(moved) as far:
        with pytest.raises(InputError) as refused:
            cached(dataset, tmp_path / "cache", far.address)
        for told in (
            f"no image {far.address}/1.png: 404",
            f"{far.address}/2.png is a web page, not an image",
            f"{far.address}/3.png is not a readable image",
        ):
            assert told in str(refused.value)
        manifest = cached(dataset, tmp_path / "cache", far.address, leave_out_bad=True)
    assert manifest.splits["train"].images == 2


def test_an_image_at_an_address_is_left_out_until_it_can_be_used(
    dataset: Path, moved: Path, tmp_path: Path
) -> None:
    kept = Path(shutil.copytree(moved, tmp_path / "kept"))
    (moved / "1.png").unlink()
    (moved / "2.png").write_text("<html>you are not logged in</html>")
    with web_server(moved) as far:
        left = cached(dataset, tmp_path / "cache", far.address, leave_out_bad=True)
        (plan,) = dataset.glob("plan-*.json")
        before = plan.stat().st_mtime_ns
        again = cached(dataset, tmp_path / "again", far.address, leave_out_bad=True)
        assert [one.splits["train"].images for one in (left, again)] == [3, 3]
        assert plan.stat().st_mtime_ns == before
        shutil.copy(kept / "2.png", moved)
        back = cached(dataset, tmp_path / "one more", far.address, leave_out_bad=True)
        assert back.left_out == {"train": {1: ()}}
        shutil.copy(kept / "1.png", moved)
        assert cached(dataset, tmp_path / "all", far.address, leave_out_bad=True).left_out == {}
    assert read_manifest(tmp_path / "all").splits["train"].images == 5


@pytest.mark.parametrize("kind", ["http", "s3", "http without ranges"])
def test_an_empty_image_at_an_address_is_a_bad_image(
    kind: str, dataset: Path, moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (moved / "4.png").write_bytes(b"")
    with served(kind.partition(" ")[0], moved, monkeypatch) as far:
        if kind == "http without ranges":
            far.faults.of = lambda name, number: "whole" if name == "4.png" else None
        with pytest.raises(InputError, match=rf"{far.address}/4\.png is empty"):
            cached(dataset, tmp_path / "cache", far.address)
        manifest = cached(dataset, tmp_path / "cache", far.address, leave_out_bad=True)
    assert manifest.splits["train"].images == 4


def test_a_server_that_fails_is_an_error_of_the_server_and_leaves_no_image_out(
    dataset: Path, moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with web_server(moved) as far:
        far.faults.of = lambda name, number: 503 if name == "3.png" else None
        # A quarter of it is the limit of a request, which the others must meet on a busy machine.
        monkeypatch.setattr(photographs, "PATIENCE", 4.0)
        with pytest.raises(StoreError, match=r"3\.png: 503 .*overloaded or failing"):
            cached(dataset, tmp_path / "cache", far.address, leave_out_bad=True)
        far.faults.of = lambda name, number: 503 if number % 2 == 0 else None
        monkeypatch.setattr(photographs, "PATIENCE", 20.0)
        assert cached(dataset, tmp_path / "cache", far.address).splits["train"].images == 5


def test_a_large_image_is_planned_by_its_head_and_read_once(
    dataset: Path, moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(photographs, "HEAD_BYTES", 1000)
    whole: list[str] = []
    real = photographs.size_of

    def size_of(files: photographs.Files, name: str) -> int:
        whole.append(name)
        return real(files, name)

    monkeypatch.setattr(photographs, "size_of", size_of)
    with web_server(moved) as far:
        cached(dataset, tmp_path / "cache", far.address)
    assert sorted(whole) == [f"{number}.png" for number in (1, 2, 3, 4, 5)]


def test_an_image_whose_size_is_at_its_end_is_read_whole_for_the_plan(
    dataset: Path, moved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from PIL import Image

    monkeypatch.setattr(photographs, "HEAD_BYTES", 1000)
    for path in moved.iterdir():  # a TIFF's directory comes last
        Image.open(path).save(path, format="TIFF")
    with web_server(moved) as far:
        assert cached(dataset, tmp_path / "cache", far.address).splits["train"].images == 5


def test_the_command_takes_the_setting_and_refuses_an_address_of_no_known_kind(
    dataset: Path, moved: Path, tmp_path: Path
) -> None:
    command = ("cache", dataset, "--out", tmp_path / "cache", "--config", "quickstart")
    done = maris_fast(*command, "images=ftp://somewhere/images")
    assert done.exit_code == 2
    assert "'ftp://somewhere/images' is an address of no known kind" in said(done)
    assert maris_fast(*command, f"images={moved}").exit_code == 0
