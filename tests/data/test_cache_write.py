"""The cache is a plain WebDataset with a correct index; it appears complete or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset
from crc32c import crc32c
from PIL import Image

from maris_fast.data_shards.cache import read_manifest, write_cache
from maris_fast.data_shards.cache.annotation import Annotation
from maris_fast.data_shards.cache.index import ShardIndex
from maris_fast.data_shards.cache.manifest import members_of
from maris_fast.data_shards.cache.mask_targets import mask_target
from maris_fast.data_shards.records import Expression, ImageRecord, ImportedDataset, Target
from maris_fast.encoders import SamEncoder, TextEncoder, TokenisedText
from maris_fast.errors import InputError, MemoryShortageError
from maris_fast.geometry import ImageGeometry
from maris_fast.rle import Rle
from tests.data.cache_dataset import default_records, record, tiny_settings, write_dataset
from tests.encoders.provenances import provenance


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = default_records()
    return write_dataset(tmp_path_factory.mktemp("dataset"), {"train": records, "val": records[:2]})


@pytest.fixture(scope="module")
def cache(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cache") / "int8"
    write_cache(dataset, out, tiny_settings(shard_bytes=100_000, batch_size=2), progress=False)
    return out


def stock_samples(folder: Path, split: str) -> list[dict[str, object]]:
    """The samples that webdataset alone reads from a split's shards."""
    urls = sorted(str(path) for path in folder.glob(f"{split}-*.tar"))
    return list(webdataset.WebDataset(urls, shardshuffle=False).decode())


def test_a_stock_webdataset_reads_it_without_our_code(cache: Path, dataset: Path) -> None:
    samples = stock_samples(cache, "train")
    records = list(ImportedDataset(dataset).records("train"))
    assert [sample["__key__"] for sample in samples] == [f"{one.image_id:012d}" for one in records]
    for sample, one in zip(samples, records, strict=True):
        annotation = sample["json"]
        assert ImageRecord.model_validate(annotation["record"]) == one
        assert annotation["random_encoders"] == ["sam", "text"]
        h, w = annotation["geometry"]["h"], annotation["geometry"]["w"]
        for level in ("level1.npy", "level2.npy", "level3.npy"):
            assert sample[level].shape == (h, w, 128)
            assert sample[level].dtype == np.int8
        assert sample["scales.npy"].shape == (3, 128)
        offsets = annotation["word_offsets"]
        assert len(offsets) == len(one.expressions) + 1
        assert sample["words.npy"].shape == (offsets[-1], 64)
        assert sample["words.npy"].dtype == np.float16
        assert sample["masks.npy"].shape == (len(one.targets), 4 * h, -(-4 * w // 8))


def test_an_annotation_has_these_bytes_and_is_read_back() -> None:
    """The bytes in the shards of existing caches: ``json`` with sorted keys and escaped non-ASCII letters."""
    mask = Rle(size=(4, 6), counts="08")
    record = ImageRecord(
        image_id=7,
        image="a/7.jpg",
        height=4,
        width=6,
        targets=(Target(ref_id=1, ann_ids=(9,), category="tasse", mask=mask, area=4),),
        expressions=(Expression(sent_id=3, target=0, text="tassé"),),
    )
    said = TokenisedText((1, 2), ("tassé", "<end>"), truncated=True)
    annotation = Annotation.of(record, ImageGeometry(4, 6, 64, 96, 4, 6), [said], provenance(sha256=None))
    written = (
        rb'{"geometry":{"h":4,"h_px":64,"height":4,"w":6,"w_px":96,"width":6},"random_encoders":["sam","text"],'
        rb'"record":{"coco_id":null,"expressions":[{"kind":null,"sent_id":3,"target":0,"text":"tass\u00e9"}],'
        rb'"height":4,"image":"a/7.jpg","image_id":7,"targets":[{"ann_ids":[9],"area":4,"category":"tasse",'
        rb'"mask":{"counts":"08","size":[4,6]},"overlap":null,"ref_id":1}],"width":6},'
        rb'"tokens":[["tass\u00e9","<end>"]],"truncated":[true],"word_offsets":[0,2]}'
    )
    assert annotation.to_bytes() == written
    assert Annotation.model_validate_json(written) == annotation


def test_stored_values_are_what_the_encoders_give(cache: Path, dataset: Path) -> None:
    settings = tiny_settings()
    sam, text = SamEncoder(settings.encoders.sam), TextEncoder(settings.encoders.text)
    records = list(ImportedDataset(dataset).records("train"))
    for sample, one in zip(stock_samples(cache, "train"), records, strict=True):
        image = Image.open(dataset / "images" / one.image)
        (levels,) = sam.encode([image])
        scales = torch.from_numpy(sample["scales.npy"])
        for level, scale, name in zip(
            levels, scales, ("level1.npy", "level2.npy", "level3.npy"), strict=True
        ):
            error = torch.from_numpy(sample[name]) * scale - level
            assert (error.abs() <= 0.501 * scale + 1e-3).all()
        words = torch.cat([each.words for each in text.encode([e.text for e in one.expressions])])
        torch.testing.assert_close(torch.from_numpy(sample["words.npy"]).float(), words, rtol=2e-3, atol=2e-3)
        geometry = sam.grid(one.height, one.width)
        expected = np.stack([mask_target(target.mask.decode(), geometry) for target in one.targets])
        packed = np.unpackbits(sample["masks.npy"], axis=-1, count=4 * geometry.w)
        assert np.array_equal(packed, expected)


def test_the_index_points_at_each_members_numbers(cache: Path) -> None:
    manifest = read_manifest(cache)
    entry = manifest.splits["train"]
    assert len(entry.shards) > 1
    samples = iter(stock_samples(cache, "train"))
    for shard in entry.shards:
        content = (cache / shard.name).read_bytes()
        assert len(content) == shard.bytes
        index = ShardIndex.from_bytes((cache / shard.index_name).read_bytes(), cache)
        for image in range(index.images):
            sample = next(samples)
            assert sample["__key__"] == f"{index.image_id[image]:012d}"
            for m, name in enumerate(members_of("int8")):
                start, size = int(index.offset[image, m]), int(index.size[image, m])
                payload = content[start : start + size]
                assert crc32c(payload) == index.crc[image, m]
                if name != "json":
                    assert payload == sample[name].tobytes()
            expressions, geometry = sample["json"]["record"]["expressions"], sample["json"]["geometry"]
            named = index.geometries._asdict().items()
            assert {name: int(column[image]) for name, column in named} == geometry
            assert index.grids[image].tolist() == [geometry["h"], geometry["w"]]
            rows = slice(*index.expression_offset[image : image + 2])
            assert index.target[rows].tolist() == [each["target"] for each in expressions]
            assert np.cumsum(index.words[rows]).tolist() == sample["json"]["word_offsets"][1:]


def test_the_manifest_says_what_is_there_and_that_it_is_random(cache: Path) -> None:
    manifest = read_manifest(cache)
    assert manifest.encoders.random == ["sam", "text"]
    assert json.loads((cache / "manifest.json").read_text())["random"] == ["sam", "text"]
    train = manifest.splits["train"]
    assert (train.images, train.expressions, train.targets) == (5, 15, 9)
    assert train.truncated_expressions == 0
    assert (manifest.channels, manifest.text_channels) == (128, 64)
    assert manifest.encoder_settings == tiny_settings().encoders


def test_the_same_input_gives_the_same_bytes(cache: Path, dataset: Path, tmp_path: Path) -> None:
    again = tmp_path / "again"
    write_cache(dataset, again, tiny_settings(shard_bytes=100_000, batch_size=2), progress=False)
    names = sorted(path.name for path in cache.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    for name in names:
        assert (cache / name).read_bytes() == (again / name).read_bytes(), name


def test_bf16_features_have_no_scales(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "half"
    write_cache(dataset, out, tiny_settings(feature_dtype="bf16"), ["val"], progress=False)
    sample = stock_samples(out, "val")[0]
    assert sample["level3.npy"].dtype == np.uint16
    assert "scales.npy" not in sample
    assert list(read_manifest(out).splits) == ["val"]


def test_cut_expressions_are_counted(tmp_path: Path) -> None:
    long = record(1, (64, 64), [(0, "one two three four five six"), (0, "short")])
    source = write_dataset(tmp_path / "dataset", {"train": [long]})
    settings = tiny_settings()
    text = settings.encoders.text.model_copy(update={"max_words": 4})
    settings = settings.model_copy(update={"encoders": settings.encoders.model_copy(update={"text": text})})
    manifest = write_cache(source, tmp_path / "cache", settings, progress=False)
    assert manifest.splits["train"].truncated_expressions == 1
    (sample,) = stock_samples(tmp_path / "cache", "train")
    assert sample["json"]["tokens"] == [["one", "two", "three", "<end>"], ["short", "<end>"]]


def broken(tmp_path: Path, change: str) -> Path:
    records = default_records()
    if change == "long":
        records[4] = record(5, (64, 96), [(0, "word " * 100)])
    if change == "blank":
        records[4] = record(5, (64, 96), [(0, " ")])
    if change == "twice":
        records[4] = records[3]
    folder = write_dataset(tmp_path / "dataset", {"train": records})
    image = folder / "images" / "5.png"
    if change == "missing":
        image.unlink()
    if change == "size":
        Image.new("RGB", (97, 64)).save(image)
    if change == "text":
        image.write_text("not an image")
    if change == "truncated":
        noise = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
        Image.fromarray(noise).save(image, format="JPEG")
        image.write_bytes(image.read_bytes()[:2000])
    return folder


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("missing", r"no image .*5\.png"),
        ("size", r"5\.png is 64 x 97.*64 x 96"),
        ("text", r"5\.png.*not a readable image"),
        ("truncated", r"5\.png.*cannot be decoded"),
        ("long", r"image 5, sentence 50000: .*102 tokens.*77"),
        ("blank", r"image 5, sentence 50000: .*no word"),
        ("twice", r"image 4 appears twice"),
    ],
)
def test_bad_input_is_named_and_leaves_nothing_half_written(tmp_path: Path, change: str, match: str) -> None:
    source = broken(tmp_path, change)
    out = tmp_path / "out" / "cache"
    with pytest.raises(InputError, match=match):
        write_cache(source, out, tiny_settings(), progress=False)
    left = {path.name for path in out.glob("*")}
    # Damage is found only when the image is decoded: shards that were finished before it stay.
    assert left == ({"writing.json"} if change == "truncated" else set())


def test_a_batch_that_does_not_fit_in_the_gpus_memory_names_the_setting_to_change(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.29 GiB.")

    monkeypatch.setattr(SamEncoder, "encode_resized", full)
    with pytest.raises(MemoryShortageError, match=r"allocate 4\.29 GiB; set batch_size below 2"):
        write_cache(dataset, tmp_path / "out", tiny_settings(batch_size=2), progress=False)
    with pytest.raises(MemoryShortageError, match=r"nvidia-smi\), or set device=cpu"):
        write_cache(dataset, tmp_path / "one", tiny_settings(batch_size=1), progress=False)


def test_an_output_folder_that_is_not_empty_is_refused_and_untouched(dataset: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="is not empty"):
        write_cache(dataset, tmp_path, tiny_settings(), progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_an_empty_output_folder_is_used(dataset: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_cache(dataset, out, tiny_settings(), ["val"], progress=False)
    assert read_manifest(out).splits["val"].images == 2


def test_an_unknown_split_lists_those_there_are(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no split 'testA'.*train, val"):
        write_cache(dataset, tmp_path / "out", tiny_settings(), ["testA"], progress=False)


@pytest.mark.parametrize(
    ("content", "match"),
    [(None, "holds no feature cache"), ("{}", "damaged"), ('{"format_version": 99', "damaged")],
)
def test_a_folder_that_is_not_a_cache_says_what_to_do(
    tmp_path: Path, content: str | None, match: str
) -> None:
    if content is not None:
        (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(InputError, match=match):
        read_manifest(tmp_path)


def test_a_mask_that_was_damaged_after_the_import_is_an_error_by_name(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": [record(1, (96, 64), [(0, "the box")])]})
    lines = dataset / "train.jsonl"
    written = json.loads(lines.read_text())
    written["targets"][0]["mask"]["counts"] = "00"
    lines.write_text(json.dumps(written) + "\n")
    with pytest.raises(
        InputError, match=r"mask of ref \d+ cannot be decoded.*they cover 0 pixels.*import it again"
    ):
        write_cache(dataset, tmp_path / "cache", tiny_settings(), progress=False)
