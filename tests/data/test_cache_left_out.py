"""Images and expressions that cannot be encoded: all reported before the first is encoded, or left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from maris_fast.config import CacheSettings
from maris_fast.data_shards.cache import read_manifest, write_cache
from maris_fast.data_shards.cache.verify import verify_cache
from maris_fast.data_shards.cache.workers import Worker
from maris_fast.data_shards.importers.left_out import LISTING, LeftOutRow
from maris_fast.data_shards.records import DatasetInfo, ImageRecord, LeftOut, LostCounts
from maris_fast.errors import InputError
from tests.command_line import maris_fast
from tests.data.cache_dataset import default_records, record, tiny_settings, write_dataset

LONG = "word " * 100
BAD = [
    record(11, (64, 96), [(0, "good"), (1, LONG), (2, "good too")]),
    record(12, (64, 96), [(0, LONG)]),
    record(13, (64, 96), [(0, " "), (0, LONG)]),
    record(14, (9, 2500), [(0, "narrow")]),
    record(15, (64, 96), [(0, "missing"), (0, "gone")]),
    record(16, (64, 96), [(0, "no image")]),
]
GOOD = [*default_records(), record(17, (64, 96), [(0, "last")])]
ROWS = {
    "image 11, sentence 110001": 1,
    "image 12, sentence 120000": 1,
    "image 13, sentence 130000": 1,
    "image 13, sentence 130001": 1,
    "image 14": 1,
    "image 15": 2,
    "image 16": 1,
}


def settings() -> CacheSettings:
    return tiny_settings(shard_bytes=100_000, batch_size=2)


def damaged(folder: Path) -> Path:
    """A data set of ``GOOD`` and ``BAD`` records, in two splits."""
    records = sorted([*GOOD, *BAD], key=lambda one: one.image_id)
    source = write_dataset(folder, {"train": records, "val": [*default_records()[:2], BAD[0]]})
    (source / "images" / "15.png").unlink()
    (source / "images" / "16.png").write_text("no image")
    return source


def cleaned(folder: Path) -> Path:
    """The part of ``damaged`` that should remain."""
    eleven = BAD[0]
    left = eleven.model_copy(
        update={
            "targets": (eleven.targets[0], eleven.targets[2]),
            "expressions": (
                eleven.expressions[0],
                eleven.expressions[2].model_copy(update={"target": 1}),
            ),
        }
    )
    records = sorted([*GOOD, left], key=lambda one: one.image_id)
    return write_dataset(folder, {"train": records, "val": [*default_records()[:2], left]})


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return damaged(tmp_path_factory.mktemp("damaged") / "dataset")


@pytest.fixture(scope="module")
def cache(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("left") / "cache"
    write_cache(source, out, settings(), leave_out_bad=True, progress=False)
    return out


def test_everything_that_cannot_be_encoded_is_reported_at_once_and_nothing_is_written(
    source: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError) as caught:
        write_cache(source, tmp_path / "out", settings(), progress=False)
    message = str(caught.value)
    assert "images that cannot be encoded (3):" in message
    assert "expressions that cannot be encoded (4):" in message
    for name in ROWS:
        assert f"    {name}: " in message
    assert "102 tokens with start and end, the text tower tiny takes 77" in message
    assert "`leave_out_bad` leaves such rows out instead" in message
    assert not (tmp_path / "out").exists()


def test_what_is_left_is_the_cache_of_the_good_rows_alone(cache: Path, tmp_path: Path) -> None:
    clean = cleaned(tmp_path / "dataset")
    write_cache(clean, tmp_path / "cache", settings(), progress=False)
    shards = sorted(path.name for path in (tmp_path / "cache").iterdir() if path.suffix in (".tar", ".npz"))
    assert len(shards) > 4
    for name in shards:
        assert (cache / name).read_bytes() == (tmp_path / "cache" / name).read_bytes(), name
    assert {path.name for path in cache.iterdir()} == {*shards, "manifest.json", LISTING}
    assert read_manifest(cache).splits == read_manifest(tmp_path / "cache").splits
    assert verify_cache(cache).problems == ()


def test_each_row_is_named_counted_and_warned_of(cache: Path) -> None:
    rows = [LeftOutRow.model_validate_json(line) for line in (cache / LISTING).read_text().splitlines()]
    assert {row.row: row.expressions for row in rows if row.split == "train"} == ROWS
    assert [(row.row, row.file) for row in rows if row.split == "val"] == [
        ("image 11, sentence 110001", "val.jsonl")
    ]
    info = read_manifest(cache).dataset
    assert info.left_out["train"].expressions == sum(ROWS.values()) == 8
    assert info.left_out["train"].images == 5
    assert {reason: lost.rows for reason, lost in info.left_out["train"].reasons.items()} == {
        "expressions that cannot be encoded": 4,
        "images that cannot be encoded": 3,
    }
    assert info.splits["train"].sentences == 15 + 1 + 2
    train, val = info.incomplete()
    assert train.startswith("warning: train is not complete, 8 of 26 expressions (30.77%) and 5 whole images")
    assert "val is not complete, 1 of 6 expressions (16.67%) and 0 whole images are left out; scores" in val


def test_rows_that_the_import_left_out_stay_counted(tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "dataset", {"train": [*GOOD, BAD[1]]})
    info = DatasetInfo.model_validate_json((source / "dataset.json").read_text())
    before = LeftOut(
        rows=2, expressions=3, images=1, reasons={"x": LostCounts(rows=2, expressions=3, images=1)}
    )
    info = info.model_copy(update={"left_out": {"train": before}})
    (source / "dataset.json").write_text(info.model_dump_json())
    write_cache(source, tmp_path / "cache", settings(), leave_out_bad=True, progress=False)
    both = read_manifest(tmp_path / "cache").dataset.left_out["train"]
    assert (both.rows, both.expressions, both.images) == (3, 4, 2)
    assert both.reasons.keys() == {"x", "expressions that cannot be encoded"}


def test_workers_leave_out_what_the_first_found(source: Path, cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "cache"
    write_cache(source, out, settings(), worker=Worker(0, 2), leave_out_bad=True, progress=False)
    assert not (out / "manifest.json").exists()
    write_cache(source, out, settings(), worker=Worker(1, 2), progress=False)
    for path in cache.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


def test_a_shard_of_a_complete_cache_is_written_again_with_what_it_had(
    source: Path, cache: Path, tmp_path: Path
) -> None:
    out = tmp_path / "cache"
    out.mkdir()
    for path in cache.iterdir():
        (out / path.name).write_bytes(path.read_bytes())
    lost = read_manifest(cache).splits["train"].shards[-1].name
    (out / lost).unlink()
    write_cache(source, out, settings(), progress=False)
    for path in cache.iterdir():
        assert (out / path.name).read_bytes() == path.read_bytes()


def moved(source: Path) -> None:
    for image in (source / "images").iterdir():
        image.rename(source / image.name)


@pytest.mark.parametrize(
    ("records", "change"),
    [([record(1, (64, 96), [(0, "a"), (0, LONG), (0, LONG)])], None), (GOOD, moved)],
)
def test_more_than_half_is_never_left_out(
    tmp_path: Path, records: list[ImageRecord], change: Callable[[Path], None] | None
) -> None:
    source = write_dataset(tmp_path / "dataset", {"train": records})
    if change:
        change(source)
    with pytest.raises(InputError, match="would be left out, more than 50%"):
        write_cache(source, tmp_path / "out", settings(), leave_out_bad=True, progress=False)
    assert not (tmp_path / "out").exists()


def test_a_complete_data_sets_manifest_is_as_before(tmp_path: Path) -> None:
    source = write_dataset(tmp_path / "dataset", {"train": default_records()})
    write_cache(source, tmp_path / "cache", settings(), leave_out_bad=True, progress=False)
    assert "left_out" not in json.loads((tmp_path / "cache" / "manifest.json").read_text())
    assert not (tmp_path / "cache" / LISTING).exists()


def test_the_command_says_what_is_left_out_before_it_encodes(source: Path, tmp_path: Path) -> None:
    command = ["cache", str(source), str(tmp_path / "out"), "--leave-out-bad", "--plan", "--no-estimate"]
    command += ["device=cpu", "encoders.sam.arch=vit_tiny", "encoders.sam.image_size=128"]
    command += ["encoders.sam.weights=random", "encoders.text.arch=tiny", "encoders.text.weights=random"]
    result = maris_fast(*command)
    assert result.exit_code == 0, result.output
    assert "train is not complete, 8 of 26 expressions (30.77%)" in result.output


def test_an_image_missing_during_encoding_is_an_error_and_not_left_out(source: Path, tmp_path: Path) -> None:
    """Rows are left out by the plan, not because they are missing during encoding."""
    copy = damaged(tmp_path / "dataset")
    out = tmp_path / "cache"
    write_cache(copy, out, settings(), worker=Worker(0, 2), leave_out_bad=True, progress=False)
    (copy / "images" / "17.png").unlink()
    with pytest.raises(InputError, match=r"no image .*17\.png"):
        write_cache(copy, out, settings(), leave_out_bad=True, progress=False)
    noise = Image.effect_noise((96, 64), 50).convert("RGB")
    noise.save(copy / "images" / "17.png")
    assert write_cache(copy, out, settings(), progress=False) is not None
