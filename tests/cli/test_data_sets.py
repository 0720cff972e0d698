"""The commands ``import`` and ``mix``: their output, their exit status and the files they leave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from maris_fast.data_shards.cache import read_manifest
from maris_fast.data_shards.records import ImportedDataset
from maris_fast.data_shards.stream import CacheReader
from maris_fast.evaluation.scores_file import AS_WRITTEN, read_scores, write_scores
from tests.command_line import maris_fast, said
from tests.data.builders import Grefs, Instances, Photos, Phrases
from tests.data.other_forms import small_family
from tests.data.test_import_damage import FORMS

TINY = ("encoders.sam.arch=vit_tiny", "encoders.sam.weights=random", "encoders.sam.image_size=128")
TINY_TEXT = ("encoders.text.arch=tiny", "encoders.text.weights=random")


def test_grefcoco_is_imported_by_its_name_and_its_counts_compared(tmp_path: Path) -> None:
    grefs = Grefs(tmp_path)
    for ref_id, split in enumerate(("testA", "testB"), start=20):
        grefs.refs.append(grefs.ref(ref_id, [-1], grefs.first, split, "nobody at all"))
    grefs.write()
    result = maris_fast("import", grefs.root, "grefcoco", "--out", grefs.out)
    assert result.exit_code == 0, result.output
    assert "grefcoco (unc)" in said(result)
    assert "differs by -259,851 sentences" in said(result)
    assert "259,859" in said(result)


def test_phrasecut_is_imported_by_its_name_and_its_counts_compared(tmp_path: Path) -> None:
    phrases = Phrases(tmp_path)
    phrases.write()
    result = maris_fast("import", phrases.root, "phrasecut", "--out", phrases.out)
    assert result.exit_code == 0, result.output
    assert "phrasecut (official)" in said(result)
    assert "differs by -820 refs" in said(result)
    assert "-99 images" in said(result)


def test_own_data_are_imported_by_their_files_name(tmp_path: Path) -> None:
    photos, coco = Photos(tmp_path / "own"), Instances(tmp_path / "coco")
    photos.write()
    for image in coco.said["images"]:
        image.pop("split", None)
    coco.write("instances_train.json")
    for root, dataset, title in (
        (photos.root, "people.jsonl", "people (own)"),
        (coco.root, "annotations/instances_{split}.json", "instances (own)"),
    ):
        result = maris_fast("import", root, dataset, "--out", tmp_path / title)
        assert result.exit_code == 0, result.output
        assert title in said(result)
        assert "no published counts" in said(result)


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_found_by_its_content(tmp_path: Path, form: str) -> None:
    made = small_family(tmp_path)
    dataset, options = FORMS[form](made)
    given = [
        f"--{name.replace('_', '-')}" if value is True else f"--{name}={value}"
        for name, value in options.items()
    ]
    result = maris_fast("import", made.root, dataset, *given, "--out", tmp_path / "imported")
    assert result.exit_code == 0, result.output
    assert {"train", "val"} <= {*said(result).split()}
    assert ImportedDataset(tmp_path / "imported").info.splits["train"].images == 1


def test_an_unknown_form_is_refused_with_the_known_ones_and_the_option(tmp_path: Path) -> None:
    made = small_family(tmp_path)
    (made.root / "rooms").mkdir()
    result = maris_fast("import", made.root, "rooms", "--out", tmp_path / "imported")
    assert result.exit_code == 2
    assert "has none of the known forms (docs/datasets.md): refs(<split-by>).p or" in said(result)
    dataset, _ = FORMS["roboflow"](made)
    result = maris_fast("import", made.root, dataset, "--out", tmp_path / "imported")
    assert result.exit_code == 2
    assert "with --category-sentences the name of a category is a sentence" in said(result)


@pytest.mark.process
def test_left_out_rows_are_reported_wherever_counts_or_scores_are(tmp_path: Path) -> None:
    grefs = Grefs(tmp_path)
    for ref_id, split in ((6, "testA"), (7, "testB")):
        grefs.refs.append(grefs.ref(ref_id, [-1], grefs.second, split, split))
    grefs.refs.append(grefs.ref(8, [999], grefs.second, "val", "of nothing that is annotated"))
    grefs.refs.append(grefs.ref(9, [-1], grefs.first, "train", ""))
    grefs.write()
    out, mix, cache = grefs.out, tmp_path / "mix", tmp_path / "cache"
    command = [sys.executable, "-m", "maris_fast.cli", "import", str(grefs.root), "grefcoco"]
    command += ["--out", str(out)]
    strict = subprocess.run(command, capture_output=True, text=True, check=False)
    assert strict.returncode == 2
    assert "ref 8, annotation 999" in strict.stderr
    assert "ref 9, sentence 90" in strict.stderr
    assert "--leave-out-bad leaves such rows out instead" in strict.stderr
    assert not list(out.parent.iterdir())

    again = subprocess.run([*command, "--leave-out-bad"], capture_output=True, text=True, check=True)
    told = " ".join(again.stdout.split())
    val = "warning: val is not complete, 1 of 3 expressions (33.33%) and 0 whole images are left out; scores"
    assert val in told
    assert "warning: train is not complete, 1 of 5 expressions (20.00%)" in told
    assert f"named in {out}/dataset.left_out.jsonl" in told
    assert "empty sentences │ 1 │ 1 │ 0 │" in told
    assert "differs by -259,851 sentences; NOT" in told
    listed = (out / "dataset.left_out.jsonl").read_text().splitlines()
    assert [json.loads(line)["row"] for line in listed] == ["ref 9, sentence 90", "ref 8"]
    assert "val is not complete" in said(maris_fast("info", out))

    mixed = said(maris_fast("mix", out, "--out", mix, "--remove-leaks"))
    assert "grefcoco_unc_val is not complete, 1 of 3" in mixed
    kept = ImportedDataset(mix).info.left_out
    for split, of_import in (("grefcoco_unc_val", "val"), ("train", "train")):
        assert kept[split] == ImportedDataset(out).info.left_out[of_import]
    cached = said(maris_fast("cache", out, cache, "--split", "val", *TINY, *TINY_TEXT))
    assert val in cached
    assert "train is not complete" not in cached
    assert "val is not complete" in said(maris_fast("info", cache))
    file = write_scores(
        tmp_path, {AS_WRITTEN: {"oiou": 0.5}}, read_manifest(cache).dataset, "val", {"weights": "w"}
    )
    assert json.loads(file.read_text())["left_out"]["val"]["expressions"] == 1
    assert [*read_scores(tmp_path).values()] == [{"oiou": 0.5}]


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_terminated_import_says_so_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    grefs = Grefs(tmp_path)
    grefs.write()
    instances = grefs.root / "grefcoco" / "instances.json"
    instances.unlink()
    os.mkfifo(instances)  # a process that reads it blocks
    command = [sys.executable, "-m", "maris_fast.cli", "import", str(grefs.root), "grefcoco"]
    with subprocess.Popen([*command, "--out", str(grefs.out)], stderr=subprocess.PIPE, text=True) as process:
        while not list(grefs.out.parent.iterdir()):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "stopped; nothing was written" in errors
    assert not list(grefs.out.parent.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("import", "{root}", "people.jsonl", "--split-by", "unc"), "has only one division into splits"),
        (("import", "{root}", "people.jsonl", "--split", "tset"), "it has train, val"),
        (("import", "{root}", "folks.jsonl"), "no file"),
        (("import", "{root}", "people.jsonl", "--images", "attic"), "--images names the folder"),
        (("import", "{root}", "kitchen"), "has none of the known forms"),
        (("mix", "{root}", "{imported}"), "run `maris-fast import` first"),
        (("mix", "{imported}", "{imported}"), "named twice"),
        (("mix", "{imported}", "--held-out", "{imported}"), "named twice"),
    ],
)
def test_a_mistake_is_one_sentence_and_status_2(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    photos = Photos(tmp_path)
    photos.imported()
    places = {"root": photos.root, "imported": photos.out}
    result = maris_fast(*(each.format(**places) for each in arguments), "--out", tmp_path / "new")
    assert result.exit_code == 2
    assert "error:" in said(result)
    assert message in said(result)
    assert not (tmp_path / "new").exists()


@pytest.mark.process
def test_real_data_sets_are_mixed_without_their_test_images_and_cached(refmini: Path, tmp_path: Path) -> None:
    """RefCOCO's real refs twice, with two different splits of the same images, as in RefCOCO and G-Ref."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "images").symlink_to(refmini / "images")
    rows = json.loads((refmini / "refcoco" / "refs(unc).p.json").read_text())
    images = sorted({row["image_id"] for row in rows})
    for name, held_out in (("grefcoco", images[:2]), ("other", images[1:3])):
        (root / name).mkdir()
        (root / name / "instances.json").symlink_to(refmini / "refcoco" / "instances.json")
        split = [{**row, "split": "val" if row["image_id"] in held_out else "train"} for row in rows]
        (root / name / "grefs(unc).json").write_text(json.dumps(split))

    def run(*arguments: object) -> str:
        result = maris_fast(*arguments)
        assert result.exit_code == 0, result.output
        return said(result)

    for name in ("grefcoco", "other"):
        run("import", root, name, "--out", tmp_path / name)
    one, other, mix = tmp_path / "grefcoco", tmp_path / "other", tmp_path / "mix"
    command = [sys.executable, "-m", "maris_fast.cli", "mix", str(one), str(other), "--out", str(mix)]
    refused = subprocess.run(command, capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "train images are test images, nothing was written" in refused.stderr
    assert "--remove-leaks leaves out these 2 images" in refused.stderr  # the third is in neither train split
    assert not mix.exists()
    told = run("mix", one, other, "--out", mix, "--remove-leaks")
    assert "removed: 2 images" in told
    assert "held-out splits, to score on: grefcoco_unc_val, grefcoco_unc_2_val" in told
    records = list(ImportedDataset(mix).records("train"))
    assert {record.image_id for record in records} == set(images) - set(images[:3])
    assert sum(len(record.expressions) for record in records) == 2 * sum(
        len(row["sentences"]) for row in rows if row["image_id"] not in images[:3]
    )

    splits = ("--split", "train", "--split", "grefcoco_unc_val")
    run("cache", mix, tmp_path / "cache", *splits, *TINY, *TINY_TEXT)
    assert "every member is what was written" in run("verify", tmp_path / "cache")
    with CacheReader(tmp_path / "cache", "grefcoco_unc_val", device="cpu") as reader:
        assert reader.images == 2
