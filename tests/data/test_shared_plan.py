"""A cache's plan is computed once, and again only if it is stale."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest

from maris_fast.config import CacheSettings
from maris_fast.data_shards.cache import photographs
from maris_fast.data_shards.cache.shared_plan import SharedPlan, planned_once
from maris_fast.data_shards.cache.write import CacheJob
from maris_fast.errors import InputError
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset", {"train": default_records()})


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Images whose headers were read for a plan."""
    paths: list[Path] = []
    check = photographs.check_image

    def counted(path: Path, *arguments: Any) -> None:
        paths.append(path)
        check(path, *arguments)

    monkeypatch.setattr(photographs, "check_image", counted)
    return paths


def job(dataset: Path, out: Path, settings: CacheSettings | None = None, **more: Any) -> CacheJob:
    return CacheJob(dataset, out, settings or tiny_settings(), progress=False, **more)


def test_the_same_plan_is_made_once_and_a_different_one_again(
    dataset: Path, tmp_path: Path, looked_at: list[Path]
) -> None:
    first = job(dataset, tmp_path / "one")
    assert len(looked_at) == 5
    assert job(dataset, tmp_path / "two").writing == first.writing
    assert len(looked_at) == 5
    job(dataset, tmp_path / "one", tiny_settings(feature_dtype="bf16"))
    assert len(looked_at) == 10
    lines = (dataset / "train.jsonl").read_text()
    (dataset / "train.jsonl").write_text(lines.replace("green one", "green two"))
    job(dataset, tmp_path / "one")
    assert len(looked_at) == 15


def test_a_plan_is_stale_when_an_image_is_gone_or_is_back(
    dataset: Path, tmp_path: Path, looked_at: list[Path]
) -> None:
    job(dataset, tmp_path / "cache")
    image = dataset / "images" / "2.png"
    kept = image.rename(tmp_path / "2.png")
    with pytest.raises(InputError, match=r"no image .*2\.png"):
        job(dataset, tmp_path / "cache")
    left = job(dataset, tmp_path / "cache", leave_out_bad=True)
    assert left.writing.head.left_out == {"train": {2: ()}}
    before = len(looked_at)
    again = job(dataset, tmp_path / "cache", leave_out_bad=True)
    assert (again.writing, len(looked_at)) == (left.writing, before)
    again.write()
    assert (tmp_path / "cache" / "dataset.left_out.jsonl").is_file()
    kept.rename(image)
    assert not job(dataset, tmp_path / "other", leave_out_bad=True).writing.head.left_out


@pytest.mark.parametrize("damage", [b"", b"{}", b"\xff", b'{"writing": 1}'])
def test_a_damaged_plan_is_made_again(
    dataset: Path, tmp_path: Path, looked_at: list[Path], damage: bytes
) -> None:
    first = job(dataset, tmp_path / "cache")
    (file,) = dataset.glob("plan-*.json")
    whole = file.read_bytes()
    file.write_bytes(damage)
    assert job(dataset, tmp_path / "cache").writing == first.writing
    assert len(looked_at) == 10
    assert file.read_bytes() == whole


def test_of_several_at_once_one_makes_it_and_the_others_take_it(dataset: Path, tmp_path: Path) -> None:
    made = job(dataset, tmp_path / "cache").writing
    (file,) = dataset.glob("plan-*.json")
    file.unlink()
    calls: list[int] = []
    taken: list[SharedPlan] = []

    def make() -> SharedPlan:
        calls.append(1)
        time.sleep(0.2)
        return SharedPlan(writing=made, newly_left_out=(), seen={}, unusable_afar=())

    threads = [
        threading.Thread(target=lambda: taken.append(planned_once(dataset, made.head, False, make)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert len(calls) == 1
    assert [plan.writing for plan in taken] == [made] * 4
