"""``predict-many``: each photograph once, in each format, and nothing lost by stopping and resuming."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from maris_fast.data_shards.records import ImportedDataset
from maris_fast.encoders import SamEncoder
from maris_fast.predicting import predict_many, record
from maris_fast.predicting.record import PredictedMask, Record
from maris_fast.prediction import EncodedImage, Predictor
from maris_fast.rle import Rle
from tests.command_line import maris_fast, said
from tests.folders import files_below
from tests.pictures import exif_of

IMAGES = ("kitchen/1.png", "kitchen/1.jpg", "garden/1.png", "garden/far/off/2.png")
SENTENCES = ("the red mug", "a dog on the left")
CAUTION = "trained on features of random encoders"
"""Is printed when the encoders have been loaded."""
FILES = {"masks": "predictions.jsonl", "coco": "predictions.coco.json", "labelme": "labelme"}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(IMAGES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (40 + number, 60, 3)).astype(np.uint8)
        turned = {"exif": exif_of(6)} if name.endswith("jpg") else {}
        Image.fromarray(pixels).save(folder / name, **turned)
    (folder / "notes.txt").write_text("no image")
    return folder


def lines_file(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def predict(*arguments: object, weights: Path, out: Path) -> Any:
    """Run the command on the CPU, where ``Predictor`` runs."""
    return maris_fast("predict-many", *arguments, "--weights", weights, "--out", out, "--device", "cpu")


def predictions(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(weights: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Output of an uninterrupted command on the folder, in each format."""
    folder = tmp_path_factory.mktemp("whole")
    for form in FILES:
        done = predict(photos, *SENTENCES, "--format", form, weights=weights, out=folder / form)
        assert done.exit_code == 0, done.output
        assert "4 of 4 images, 8 masks" in said(done)
        assert CAUTION in said(done)
    return folder


@pytest.mark.parametrize("form", FILES)
def test_import_reads_back_each_format_with_the_predictors_own_masks(
    weights: Path, photos: Path, whole: Path, tmp_path: Path, form: str
) -> None:
    done = maris_fast("import", whole / form, FILES[form], "--images", photos, "--out", tmp_path / "data")
    assert done.exit_code == 0, done.output
    records = ImportedDataset(tmp_path / "data").records("train")
    found = {(one.image, sample.text): sample.target for one in records for sample in one.samples()}
    assert found.keys() == {(image, text) for image in IMAGES for text in SENTENCES}
    predictor = Predictor(weights)
    for (image, text), target in found.items():
        wanted = predictor.masks(photos / image, text)
        assert wanted.any()
        np.testing.assert_array_equal(target.decode(), wanted, strict=True)


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32-le"])
def test_import_reads_predictions_in_any_encoding_that_it_reads(
    photos: Path, whole: Path, tmp_path: Path, encoding: str
) -> None:
    text = (whole / "masks" / "predictions.jsonl").read_text()
    (tmp_path / "predictions.jsonl").write_text(text, encoding=encoding)
    for name, root in (("own", whole / "masks"), ("other", tmp_path)):
        done = maris_fast("import", root, "predictions.jsonl", "--images", photos, "--out", tmp_path / name)
        assert done.exit_code == 0, done.output
    assert (tmp_path / "other/train.jsonl").read_bytes() == (tmp_path / "own/train.jsonl").read_bytes()


def test_photographs_of_one_name_have_masks_of_their_own(whole: Path) -> None:
    lines = predictions(whole / "masks")
    assert [line["image"] for line in lines[::2]] == sorted(IMAGES)
    assert len({line["mask"] for line in lines}) == len(lines) == 8
    for line in lines:
        mask = np.asarray(Image.open(whole / "masks" / line["mask"])) > 0
        np.testing.assert_array_equal(mask, Rle.model_validate(line["prediction"]).decode(), strict=True)
        assert 0.5 < line["score"] < 1
    names = {str(one.relative_to(whole / "labelme/labelme")) for one in (whole / "labelme").rglob("*.*.json")}
    assert names == {f"{image}.json" for image in IMAGES}  # 1.jpg and 1.png would both be 1.json
    document = json.loads((whole / "labelme/labelme/garden/far/off/2.png.json").read_text())
    place = whole / "labelme/labelme/garden/far/off" / document["imagePath"]
    assert place.resolve().name == "2.png"
    assert place.is_file()


def test_lines_of_one_image_are_joined_and_the_image_is_encoded_once(
    weights: Path, photos: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded = []
    encode = SamEncoder.encode
    monkeypatch.setattr(SamEncoder, "encode", lambda sam, images: encoded.append(1) or encode(sam, images))
    file = lines_file(
        tmp_path / "asked.jsonl",
        [
            {"image": "kitchen/1.png", "sentence": SENTENCES[0]},
            {"image": "garden/1.png", "sentences": list(SENTENCES)},
            {"image": "./kitchen//1.png", "sentences": [SENTENCES[1], f" {SENTENCES[0]}\n"]},
        ],
    )
    done = predict(file, "--images", photos, "--format", "labelme", weights=weights, out=tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert len(encoded) == 2
    wanted = {(one["image"], one["sentence"]): one["prediction"] for one in predictions(whole / "masks")}
    lines = predictions(tmp_path / "out")
    assert len(lines) == 4
    assert all(wanted[line["image"], line["sentence"]] == line["prediction"] for line in lines)
    assert (tmp_path / "out/labelme/kitchen/1.json").is_file()  # no two share a stem here

    more = lines_file(file, [{"image": "garden/1.png", "sentences": [*SENTENCES, "a bird"]}])
    done = predict(more, "--images", photos, "--format", "labelme", weights=weights, out=tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert len(encoded) == 3
    shapes = json.loads((tmp_path / "out/labelme/garden/1.json").read_text())["shapes"]
    assert [one["description"] for one in shapes] == [*SENTENCES, "a bird"]


def test_bad_lines_hostile_paths_and_broken_images_are_all_named_or_left_out(
    weights: Path, photos: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "in"
    shutil.copytree(photos, folder)
    (folder / "cut.jpg").write_bytes((photos / "kitchen/1.jpg").read_bytes()[:900])
    (folder / "text.png").write_text("no image")
    Image.fromarray(np.full((40, 40), 7, np.float32)).save(folder / "float.tif")
    (tmp_path / "secret.png").write_bytes((photos / "kitchen/1.png").read_bytes())
    bad = {
        "../secret.png": "leave the image folder",
        "kitchen/../../secret.png": "leave the image folder",
        str(tmp_path / "secret.png"): "leave the image folder",
        "C:\\secret.png": "leave the image folder",
        "none.png": "no image",
        "cut.jpg": "cut.jpg",
        "text.png": "not a readable image",
        "kitchen": "is a folder",
    }
    rows = [{"image": image, "sentence": SENTENCES[0]} for image in (*bad, "garden/1.png")]
    odd = [
        {"image": "kitchen/1.png"},
        {"image": "kitchen/1.png", "sentense": "a typo"},
        {"image": "kitchen/1.png", "sentences": ["very " * 80, "  ", SENTENCES[1]]},
        {"image": "kitchen/1.png", "sentences": list(SENTENCES), "sent_ids": [1]},
    ]
    file = lines_file(folder / "asked.jsonl", [*rows, *odd])
    file.write_text(f"{file.read_text()}{{")
    out = tmp_path / "out"
    refused = predict(file, weights=weights, out=out)
    assert refused.exit_code == 2
    for image, why in bad.items():
        assert image.rpartition("\\")[2] in said(refused)
        assert why in said(refused)
    for number in (10, 11, 12, 13, 14):
        assert f"asked.jsonl:{number}" in said(refused)
    assert "--leave-out-bad continues without them" in said(refused)
    assert not out.exists()

    done = predict(file, "--leave-out-bad", weights=weights, out=out)
    assert done.exit_code == 0, done.output
    assert "2 of 2 images, 2 masks" in said(done)
    assert [line["image"] for line in predictions(out)] == ["garden/1.png", "kitchen/1.png"]
    listed = [json.loads(line) for line in (out / "left-out.jsonl").read_text().splitlines()]
    assert len(listed) == len(bad) + 6
    assert {one.name for one in tmp_path.iterdir()} == {"in", "out", "secret.png"}

    # Its header is valid, but its pixels cannot be interpreted.
    lines_file(
        file, [rows[-1], {"image": "float.tif", "sentence": "a"}, {"image": IMAGES[1], "sentence": "a"}]
    )
    late = predict(file, weights=weights, out=out)
    assert late.exit_code == 2
    assert "1 images cannot be predicted, all others are written" in said(late)
    assert "float.tif has float32 values" in said(late)
    assert predictions(out)[-1]["image"] == IMAGES[1]


@pytest.mark.parametrize("form", FILES)
def test_a_stopped_command_keeps_finished_images_and_resumes(
    weights: Path, photos: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    encoded: list[int] = []
    encode = SamEncoder.encode

    def interrupted(sam: SamEncoder, images: Any) -> Any:
        encoded.append(1)
        if len(encoded) == 3:
            raise KeyboardInterrupt
        return encode(sam, images)

    monkeypatch.setattr(SamEncoder, "encode", interrupted)
    out = tmp_path / "out"
    stopped = predict(photos, *SENTENCES, "--format", form, weights=weights, out=out)
    assert stopped.exit_code == 130
    assert "stopped; the same command resumes" in said(stopped)
    assert "2 of 4 images, 4 masks" in said(stopped)
    again = maris_fast("import", out, FILES[form], "--images", photos, "--out", tmp_path / "partial")
    assert again.exit_code == 0, again.output
    done = predict(photos, *SENTENCES, "--format", form, weights=weights, out=out)
    assert done.exit_code == 0, done.output
    assert len(encoded) == 3 + 2
    same = files_below(out)
    if form == "labelme":  # imagePath depends on the output folder
        same = {name: content for name, content in same.items() if not name.startswith("labelme/")}
        assert {*files_below(out)} == {*files_below(whole / form)}
    assert all(files_below(whole / form)[name] == content for name, content in same.items())


def test_an_image_too_large_for_the_gpu_is_named_and_the_others_are_predicted(
    weights: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    number = iter(range(9))

    def score(logits: torch.Tensor) -> float:
        if next(number) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 5.20 GiB.")
        return 0.5

    monkeypatch.setattr(predict_many, "score_of", score)
    out = tmp_path / "out"
    asked = (photos, SENTENCES[0], "--format", "coco")
    done = predict(*asked, weights=weights, out=out)
    assert done.exit_code == 2
    (left_out,) = {*IMAGES} - {one["image"] for one in predictions(out)}
    assert f"{left_out}: CUDA out of memory. Tried to allocate 5.20 GiB; set --device to cpu" in said(done)
    assert len(json.loads((out / FILES["coco"]).read_text())["images"]) == 3
    again = predict(*asked, weights=weights, out=out)
    assert again.exit_code == 0, again.output
    assert {one["image"] for one in predictions(out)} == {*IMAGES}


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_process_that_is_ended_loses_no_finished_image(
    weights: Path, photos: Path, whole: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "maris_fast.cli", "predict-many", photos, *SENTENCES]
    command += ["--weights", weights, "--out", out, "--device", "cpu"]
    process = subprocess.Popen([*map(str, command)])
    file = out / "predictions.jsonl"
    until = time.monotonic() + 120
    while not (file.exists() and file.stat().st_size) and time.monotonic() < until:
        time.sleep(0.001)
    process.send_signal(number)
    assert process.wait(timeout=60) in (130, -number, 0)
    before = file.read_bytes()
    assert before
    done = predict(photos, *SENTENCES, weights=weights, out=out)
    assert done.exit_code == 0, done.output
    kept = before[: before.rfind(b"\n") + 1]
    assert file.read_bytes().startswith(kept)
    assert files_below(out) == files_below(whole / "masks")


@pytest.mark.parametrize("cut", [1, 40, 400])
def test_a_truncated_line_is_predicted_again(
    weights: Path, photos: Path, whole: Path, tmp_path: Path, cut: int
) -> None:
    out = tmp_path / "out"
    shutil.copytree(whole / "masks", out)
    content = (out / "predictions.jsonl").read_bytes()
    (out / "predictions.jsonl").write_bytes(content[:-cut])
    done = predict(photos, *SENTENCES, weights=weights, out=out)
    assert done.exit_code == 0, done.output
    assert files_below(out) == files_below(whole / "masks")


def test_a_disk_that_fills_up_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    line = PredictedMask(image="a", sentence="b", score=0.5, prediction=Rle.empty(4, 6))
    kept = Record(tmp_path)
    kept.append([line])
    before = kept.path.read_bytes()
    write = os.write

    def full(descriptor: int, content: bytes) -> int:
        if len(content) < len(before):
            raise OSError(28, "No space left on device")
        return write(descriptor, content[:20])

    monkeypatch.setattr(record.os, "write", full)
    with pytest.raises(OSError, match="No space"):
        kept.append([line])
    assert kept.path.read_bytes() == before
    monkeypatch.undo()
    kept.append([line, line])
    assert kept.path.read_bytes() == 3 * before
    assert kept.lines_of("a") == [line] * 3


def test_nothing_is_overwritten_unless_asked(
    weights: Path, photos: Path, whole: Path, tmp_path: Path
) -> None:
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.txt").write_text("years of work")
    for more in ((), ("--overwrite",)):
        refused = predict(photos, *SENTENCES, *more, weights=weights, out=foreign)
        assert refused.exit_code == 2
        assert "is not empty and holds no predictions" in said(refused)
        assert files_below(foreign) == {"thesis.txt": b"years of work"}
    out = tmp_path / "out"
    shutil.copytree(whole / "coco", out)
    (out / "own.txt").write_text("mine")
    before = files_below(out)
    refused = predict(photos, *SENTENCES, weights=weights, out=out)
    assert refused.exit_code == 2
    assert "format was coco, now masks; name another folder with --out, or replace" in said(refused)
    assert CAUTION not in said(refused)  # the encoders were not loaded
    assert files_below(out) == before
    done = predict(photos, *SENTENCES, "--overwrite", weights=weights, out=out)
    assert done.exit_code == 0, done.output
    assert files_below(out) == files_below(whole / "masks") | {"own.txt": b"mine"}


def test_a_record_that_was_changed_writes_nothing_outside_and_decodes_no_damaged_mask(
    weights: Path, photos: Path, tmp_path: Path
) -> None:
    for form in ("masks", "labelme"):
        out = tmp_path / form
        file = lines_file(tmp_path / "asked.jsonl", [{"image": IMAGES[0], "sentence": SENTENCES[0]}])
        arguments = (file, "--images", photos, "--format", form)
        assert predict(*arguments, weights=weights, out=out).exit_code == 0
        (line,) = predictions(out)
        lines_file(file, [{"image": IMAGES[0], "sentences": list(SENTENCES)}])
        changed = {**line, "prediction": {"size": [40, 60], "counts": "0"}, "mask": "../../outside.png"}
        lines_file(out / "predictions.jsonl", [changed])
        refused = predict(*arguments, weights=weights, out=out)
        assert refused.exit_code == 2
        assert "run lengths are damaged" in said(refused)
        lines_file(out / "predictions.jsonl", [{**line, "mask": "../../outside.png"}])
        assert predict(*arguments, weights=weights, out=out).exit_code == 0
        assert not list(tmp_path.rglob("outside.png"))
        assert not (tmp_path.parent / "outside.png").exists()


def test_images_with_new_suffixes_get_labels_of_their_own_or_an_error(
    weights: Path, photos: Path, tmp_path: Path
) -> None:
    both = [{"image": image, "sentence": SENTENCES[0]} for image in IMAGES[:2]]
    file, out = tmp_path / "asked.jsonl", tmp_path / "out"
    arguments = (lines_file(file, both[:1]), "--images", photos, "--format", "labelme")
    assert predict(*arguments, weights=weights, out=out).exit_code == 0
    labels = files_below(out)
    for more in (both, both[1:]):
        lines_file(file, more)
        refused = predict(*arguments, weights=weights, out=out)
        assert refused.exit_code == 2
        assert "full_names was False, now True" in said(refused)
        assert files_below(out) == labels
    lines_file(file, both)
    assert predict(*arguments, "--overwrite", weights=weights, out=out).exit_code == 0
    lines_file(file, both[:1])
    assert predict(*arguments, weights=weights, out=out).exit_code == 0
    assert {one.name for one in (out / "labelme/kitchen").iterdir()} == {"1.png.json", "1.jpg.json"}


def test_where_nothing_is_left_all_problems_are_an_error(weights: Path, tmp_path: Path) -> None:
    file = lines_file(tmp_path / "asked.jsonl", [{"image": "none.jpg", "sentence": "a mug"}])
    refused = predict(file, "--leave-out-bad", weights=weights, out=tmp_path / "out")
    assert refused.exit_code == 2
    assert "nothing is left to predict" in said(refused)
    assert "none.jpg" in said(refused)
    assert not (tmp_path / "out").exists()
    one = maris_fast("predict", tmp_path, "a mug", "--weights", weights)
    assert one.exit_code == 2
    assert "`maris-fast predict-many` takes folders" in said(one)


def test_predictions_that_another_process_made_meanwhile_stay(
    weights: Path, photos: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    usable_of = predict_many.usable_of

    def meanwhile(*arguments: Any) -> Any:
        shutil.copytree(whole / "coco", out)
        return usable_of(*arguments)

    monkeypatch.setattr(predict_many, "usable_of", meanwhile)
    refused = predict(photos, *SENTENCES, weights=weights, out=out)
    assert refused.exit_code == 2
    assert "format was coco, now masks" in said(refused)
    assert files_below(out) == files_below(whole / "coco")


def test_an_empty_mask_is_a_prediction_that_coco_and_labelme_cannot_say(
    weights: Path, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def logits(predictor: Predictor, image: EncodedImage, text: str) -> torch.Tensor:
        said = torch.full((image.geometry.height, image.geometry.width), -2.0)
        said[3, 5] = -1.0 if text == "nothing" else 1.0
        return said

    monkeypatch.setattr(Predictor, "logits", logits)
    for form in FILES:
        out = tmp_path / form
        done = predict(photos, "nothing", "a pixel", "--format", form, weights=weights, out=out)
        assert done.exit_code == 0, done.output
        assert ("4 empty masks are in predictions.jsonl alone" in said(done)) == (form != "masks")
        scores = [line["score"] for line in predictions(out)]
        assert scores == pytest.approx([0.268941, 0.731059] * 4)
        data = tmp_path / f"{form}-data"
        assert maris_fast("import", out, FILES[form], "--images", photos, "--out", data).exit_code == 0
        areas = [s.target.area for r in ImportedDataset(data).records("train") for s in r.samples()]
        assert areas == ([0, 1] * 4 if form == "masks" else [1] * 4)


def test_score_reads_predictions_with_the_ids_of_a_data_set(
    weights: Path, photos: Path, whole: Path, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    assert (
        maris_fast("import", whole / "coco", FILES["coco"], "--images", photos, "--out", data).exit_code == 0
    )
    asked = [
        {
            "image": one.image,
            "sentences": [sample.text for sample in one.samples()],
            "sent_ids": [sample.sent_id for sample in one.samples()],
        }
        for one in ImportedDataset(data).records("train")
    ]
    file = lines_file(tmp_path / "asked.jsonl", asked)
    assert predict(file, "--images", photos, weights=weights, out=tmp_path / "out").exit_code == 0
    scored = maris_fast(
        *("score", tmp_path / "out/predictions.jsonl", data, "--split", "train", "--bootstrap", 0),
        *("--out", tmp_path / "scores.json"),
    )
    assert scored.exit_code == 0, scored.output
    scores = json.loads((tmp_path / "scores.json").read_text())["as written"]
    assert (scores["expressions"], scores["mIoU"]) == (8, 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("{photos}",), "is a folder; add the sentences to segment in its images"),
        (("{photos}", "a mug", "--images", "x"), "is the folder of images itself; remove --images"),
        (("{photos}/notes.txt", "a mug"), "is not a folder, so its lines give the sentences"),
        (("{photos}/none.jsonl",), "no file"),
        (("{empty}", "a mug"), "no image in"),
    ],
)
def test_invalid_arguments_are_reported_before_anything_is_loaded(
    photos: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    given = [one.format(photos=photos, empty=tmp_path) for one in arguments]
    refused = predict(*given, weights=tmp_path / "none", out=tmp_path / "out")
    assert refused.exit_code == 2
    assert message in said(refused)


def test_a_folder_of_something_else_is_refused_before_anything_is_loaded(
    photos: Path, tmp_path: Path
) -> None:
    refused = predict(photos, "a mug", weights=tmp_path / "none", out=photos / "kitchen")
    assert refused.exit_code == 2
    assert "is not empty and holds no predictions" in said(refused)
