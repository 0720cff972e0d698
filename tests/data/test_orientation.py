"""Photographs that EXIF turns, annotated as they are stored or as they are shown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maris_fast.data_shards.cache import write_cache
from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.mixing import mix_datasets
from maris_fast.data_shards.records import ImageRecord, ImportedDataset
from maris_fast.data_shards.stream.reader import CacheReader
from maris_fast.errors import InputError
from maris_fast.train.validation_pictures import SampleMasks, SampleSheet
from tests.data.cache_dataset import tiny_settings
from tests.pictures import exif_of, stored_for, turned

SHOWN = np.random.default_rng(1).integers(0, 256, (64, 96, 3)).astype(np.uint8)
SQUARE = SHOWN[:, :64]
CORNER = [0, 0, 30, 0, 30, 20, 0, 20]
UNDECIDED = r"EXIF rotation, whose masks.*`orientation` to stored .* or to shown"


def jsonl(root: Path, pixels: np.ndarray, turn: int, **said: Any) -> str:
    line = {"image": "photo.png", "sentence": "the corner", "mask": [CORNER], **said}
    turned(root / "photo.png", turn, pixels)
    (root / "said.jsonl").write_text(json.dumps(line))
    return "said.jsonl"


def jsonl_with_size(root: Path, pixels: np.ndarray, turn: int, size: tuple[int, ...]) -> str:
    return jsonl(root, pixels, turn, height=size[0], width=size[1])


def jsonl_with_run_lengths(root: Path, pixels: np.ndarray, turn: int, size: tuple[int, ...]) -> str:
    counts = [0, 20, size[0] * size[1] - 20]
    return jsonl(root, pixels, turn, mask={"size": list(size[:2]), "counts": counts})


def jsonl_with_mask_file(root: Path, pixels: np.ndarray, turn: int, size: tuple[int, ...]) -> str:
    Image.fromarray(np.eye(*size[:2], dtype=np.uint8) * 255).save(root / "mask.png")
    return jsonl(root, pixels, turn, mask="mask.png")


def coco(root: Path, pixels: np.ndarray, turn: int, size: tuple[int, ...]) -> str:
    turned(root / "photo.png", turn, pixels)
    image = {"id": 1, "file_name": "photo.png", "height": size[0], "width": size[1]}
    annotation = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": [CORNER], "caption": "the corner"}
    said = {"images": [image], "annotations": [annotation], "categories": [{"id": 1, "name": "corner"}]}
    (root / "said.json").write_text(json.dumps(said))
    return "said.json"


def imported(root: Path, dataset: str, **options: Any) -> tuple[ImageRecord, dict[str, Any]]:
    """The record, and its JSON as written."""
    out = root / "out"
    import_dataset(root, dataset, out, ImportOptions(**options))
    (record,) = ImportedDataset(out).records("train")
    return record, json.loads((out / "train.jsonl").read_text())


@pytest.mark.parametrize("turn", [5, 6, 7, 8])
@pytest.mark.parametrize("write", [coco, jsonl_with_size, jsonl_with_run_lengths, jsonl_with_mask_file])
@pytest.mark.parametrize("view", ["stored", "shown"])
def test_the_annotated_size_tells_which_view_is_meant(
    tmp_path: Path, write: Any, turn: int, view: str
) -> None:
    size = SHOWN.shape if view == "shown" else stored_for(turn, SHOWN).shape
    record, written = imported(tmp_path, write(tmp_path, SHOWN, turn, size))
    assert (record.orientation, record.height, record.width) == (view, *size[:2])
    # Stored views are written without the field, as before it existed: caches contain checksums of records.
    assert written.get("orientation") == (None if view == "stored" else "shown")


@pytest.mark.parametrize(("pixels", "turn"), [(SHOWN, 2), (SHOWN, 3), (SHOWN, 4), (SQUARE, 6), (SQUARE, 2)])
@pytest.mark.parametrize("write", [coco, jsonl_with_size])
def test_where_both_views_fit_it_must_be_said(
    tmp_path: Path, write: Any, pixels: np.ndarray, turn: int
) -> None:
    dataset = write(tmp_path, pixels, turn, pixels.shape)
    with pytest.raises(InputError, match=f"(?s){UNDECIDED}.*photo.png"):
        imported(tmp_path, dataset)
    for view in ("stored", "shown"):
        import_dataset(tmp_path, dataset, tmp_path / view, ImportOptions(orientation=view))
        (record,) = ImportedDataset(tmp_path / view).records("train")
        assert record.orientation == view


def test_where_the_size_decides_the_option_does_not(tmp_path: Path) -> None:
    record, _ = imported(tmp_path, coco(tmp_path, SHOWN, 6, SHOWN.shape), orientation="stored")
    assert record.orientation == "shown"


def test_lines_without_any_size_need_the_option(tmp_path: Path) -> None:
    dataset = jsonl(tmp_path, SHOWN, 6)
    with pytest.raises(InputError, match=f"(?s){UNDECIDED}"):
        imported(tmp_path, dataset)
    record, _ = imported(tmp_path, dataset, orientation="shown")
    assert (record.orientation, record.height, record.width) == ("shown", *SHOWN.shape[:2])


def test_a_turned_photograph_of_unknown_orientation_is_left_out_like_any_bad_row(tmp_path: Path) -> None:
    dataset = coco(tmp_path, SHOWN, 3, SHOWN.shape)
    said = json.loads((tmp_path / dataset).read_text())
    Image.fromarray(SHOWN).save(tmp_path / "other.png", exif=exif_of(1))
    said["images"].append({**said["images"][0], "id": 2, "file_name": "other.png"})
    said["annotations"].append({**said["annotations"][0], "id": 2, "image_id": 2})
    (tmp_path / dataset).write_text(json.dumps(said))
    record, _ = imported(tmp_path, dataset, leave_out_bad=True)
    assert record.image == "other.png"
    (row,) = (tmp_path / "out" / "dataset.left_out.jsonl").read_text().splitlines()
    assert (
        json.loads(row)["reason"] == "images with an EXIF rotation, whose masks may have either orientation"
    )


def test_the_cache_and_pictures_see_the_view_that_was_annotated(tmp_path: Path) -> None:
    features = {}
    for name, turn in (("twin", 1), ("turned", 6)):
        (tmp_path / name).mkdir()
        imported(tmp_path / name, coco(tmp_path / name, SHOWN, turn, SHOWN.shape))
        cache = tmp_path / name / "cache"
        write_cache(tmp_path / name / "out", cache, tiny_settings(), progress=False)
        with CacheReader(cache, "train") as reader:
            (batch,) = reader.evaluation_batches()
            features[name] = [level.numpy() for level in batch.features]
            samples = batch.samples
    for twin, of_turned in zip(features["twin"], features["turned"], strict=True):
        np.testing.assert_array_equal(of_turned, twin)

    masks = SampleMasks(1)
    masks.see(samples[0], torch.zeros(SHOWN.shape[:2], dtype=torch.bool))
    (drawn,) = masks.kept()
    said: list[str] = []
    shown = SampleSheet(tmp_path / "turned").background(drawn.sample, said.append)
    assert said == []
    np.testing.assert_array_equal(np.asarray(shown), SHOWN)


def test_mixed_data_sets_keep_the_view_and_must_agree_on_it(tmp_path: Path) -> None:
    dataset = coco(tmp_path, SHOWN, 3, SHOWN.shape)
    for view in ("stored", "shown"):
        import_dataset(tmp_path, dataset, tmp_path / view, ImportOptions(orientation=view))
    mix_datasets([tmp_path / "shown"], tmp_path / "mix")
    (record,) = ImportedDataset(tmp_path / "mix").records("train")
    assert record.orientation == "shown"
    with pytest.raises(InputError, match="as stored and another as EXIF turns them"):
        mix_datasets([tmp_path / "stored", tmp_path / "shown"], tmp_path / "both")
