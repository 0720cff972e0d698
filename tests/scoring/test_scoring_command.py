"""``maris-fast eval`` as typed by a user, on a real cache."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from maris_fast import evaluate
from maris_fast.data_shards.cache import read_manifest, write_cache
from maris_fast.data_shards.cache.manifest import MANIFEST
from maris_fast.data_shards.records import ImportedDataset, LeftOut, LostCounts, Target
from maris_fast.data_shards.stream import CacheReader
from maris_fast.evaluation import evaluate as command
from maris_fast.rle import Rle
from maris_fast.scoring import PROTOCOLS
from maris_fast.system.files import sha256_of
from tests.command_line import maris_fast
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset
from tests.training.processes import run, torchrun
from tests.training.tiny_cache import write_tiny_cache, write_untrained_for


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``cache`` and ``model.safetensors`` of an untrained model."""
    folder = tmp_path_factory.mktemp("scored")
    write_untrained_for(write_tiny_cache(folder), folder / "model.safetensors")
    return folder


def scored(folder: Path, **options: Any) -> dict[str, Any]:
    weights, cache = folder / "model.safetensors", folder / "cache"
    return command.evaluate(weights, cache, "train", **options)


@pytest.mark.process
@pytest.mark.parametrize("launcher", ["own", "torchrun"])
def test_two_ranks_print_and_write_what_everybody_would_have_printed(
    folder: Path, launcher: str, tmp_path: Path
) -> None:
    out = tmp_path / "scores.json"
    launch = [sys.executable] if launcher == "own" else torchrun()
    typed = [*launch, "-m", "maris_fast.cli", "eval", str(folder / "model.safetensors")]
    typed += ["--ranks", "2" if launcher == "own" else "0"]
    typed += [str(folder / "cache"), "--split", "train", "--swapped", "--breakdown"]
    typed += [
        "--protocol",
        "lavt,rela,cris,cris-val",
        "--protocol",
        "vlt,phrasecut",
        "--bootstrap",
        "50",
        "--out",
        str(out),
        "--per-expression",
        str(tmp_path / "expressions.jsonl"),
    ]
    done = run(*typed, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("overall IoU", "prec@0.95", "T_acc", "95% from", "by words", "spread"):
        assert words in done.stdout
    assert done.stdout.count("train, at the images' original size") == 1
    assert "…" not in done.stdout  # no column cut off
    found = json.loads(out.read_text())
    assert found.pop("data") == {"name": "boxes", "split_by": "test", "split": "train"}
    assert found.pop("weights") == str(folder / "model.safetensors")
    assert found.pop("weights_sha256") == sha256_of(folder / "model.safetensors")
    assert found.pop("random_encoders") == ["sam", "text"]
    assert "note: these weights were trained on features of random encoders (sam and text)" in done.stderr
    assert found.keys() == {"as written", "exchanged"}
    names = ["lavt", "cris", "cris-val", "rela", "vlt", "phrasecut"]
    wanted = scored(folder, swapped=True, protocols=names, bootstrap=50)
    for condition, summary in found.items():
        assert list(summary["protocols"]) == ["maris", *names]
        same_numbers(summary, wanted[condition])
    every_expression_is_there(tmp_path / "expressions.jsonl", folder, found["as written"])


@pytest.mark.process
def test_processes_of_a_launcher_with_different_weights_score_no_mixture(
    folder: Path, tmp_path: Path
) -> None:
    tensors = load_file(folder / "model.safetensors")
    with safe_open(folder / "model.safetensors", "pt") as file:
        meta = file.metadata()
    for rank in (0, 1):
        save_file({name: tensor + rank for name, tensor in tensors.items()}, tmp_path / f"{rank}", meta)
    typed = f"{sys.executable} -m maris_fast.cli eval {tmp_path}/$RANK {folder / 'cache'} --split train"
    done = run(*torchrun(2, "--no-python"), "bash", "-c", f"{typed} --ranks 0 --out {tmp_path}/scores.json")
    assert done.returncode != 0
    assert f"has {tmp_path}/0 (" in done.stderr
    assert f"has {tmp_path}/1 (" in done.stderr
    assert "leave out --ranks 0" in done.stderr
    assert not (tmp_path / "scores.json").exists()


def test_one_rank_scores_in_this_process_what_python_gives_of_the_runs_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a launcher was started"))
    monkeypatch.setenv("SLURM_PROCID", "1")  # one of several tasks, as in the script of a job array
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    (tmp_path / "best.safetensors").hardlink_to(folder / "model.safetensors")
    out = tmp_path / "scores.json"
    typed = ["eval", str(tmp_path), str(folder / "cache"), "--split", "train", "--out", str(out)]
    done = maris_fast(*typed)
    assert done.exit_code == 0, done.output
    found = json.loads(out.read_text())
    assert found["weights"] == str(tmp_path / "best.safetensors")
    assert found["weights_sha256"] == sha256_of(tmp_path / "best.safetensors")
    wanted = evaluate(tmp_path, folder / "cache", "train")
    assert found["as written"] == json.loads(json.dumps(wanted["as written"]))


def every_expression_is_there(file: Path, folder: Path, scores: dict[str, Any]) -> None:
    """Require each once, in order, with the numbers of its own mask, which add up to the score."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    sums = [0, 0]
    known = [
        (record, record.targets[one.target], one)
        for record in ImportedDataset(folder / "dataset").records("train")
        for one in record.expressions
    ]
    known.sort(key=lambda each: (each[0].image_id, each[1].ref_id, each[2].sent_id))
    assert len(lines) == len(known) == scores["expressions"]
    for line, (record, target, expression) in zip(lines, known, strict=True):
        assert [line[key] for key in ("image_id", "image", "ref_id", "ann_ids", "sent_id", "sentence")] == [
            record.image_id,
            record.image,
            target.ref_id,
            list(target.ann_ids),
            expression.sent_id,
            expression.text,
        ]
        masks = [Rle(**line["prediction"]).decode(), target.mask.decode()]
        assert [line["intersection"], line["union"]] == [
            (masks[0] & masks[1]).sum(),
            (masks[0] | masks[1]).sum(),
        ]
        assert line["iou"] == line["intersection"] / line["union"]
        sums = [sums[0] + line["intersection"], sums[1] + line["union"]]
    assert scores["oIoU"] == sums[0] / sums[1]
    assert scores["mIoU"] == pytest.approx(sum(line["iou"] for line in lines) / len(lines), rel=1e-12)
    assert sums[0] > 0


def test_a_place_that_cannot_be_written_to_is_reported_before_anything_is_scored(
    folder: Path, tmp_path: Path
) -> None:
    typed = ["eval", str(folder / "model.safetensors"), str(folder / "cache"), "--split", "train"]
    for place, reason in ((tmp_path / "none" / "x.jsonl", "needs the folder"), (tmp_path, "is a folder")):
        done = maris_fast(*typed, "--per-expression", str(place))
        assert done.exit_code == 2
        assert f"error: --per-expression {place} {reason}" in done.stderr
        assert "oIoU" not in done.stdout
    (tmp_path / "taken").write_text("mine")
    for place, reason in (
        (tmp_path / "none" / "s.json", "needs the folder"),
        (tmp_path / "taken", "is a file"),
    ):
        done = maris_fast(*typed, "--out", str(place))
        assert done.exit_code == 2
        assert f"error: --out {place} {reason}" in done.stderr
        assert "oIoU" not in done.stdout
    done = maris_fast("compare", *[str(tmp_path / "taken")] * 2, "--out", str(tmp_path / "none" / "c.json"))
    assert f"error: --out {tmp_path / 'none' / 'c.json'} needs the folder" in done.stderr


def test_scores_of_several_splits_go_to_a_folder_that_need_not_exist(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "scores"
    for split in ("train", "val"):
        typed = ("eval", folder / "model.safetensors", folder / "cache", "--split", split, "--bootstrap", "0")
        done = maris_fast(*map(str, typed), "--out", str(out))
        assert done.exit_code == 0, done.stderr
    assert sorted(file.name for file in out.iterdir()) == [
        "scores-boxes-test-train.json",
        "scores-boxes-test-val.json",
    ]


@pytest.mark.process
def test_a_split_that_is_not_complete_is_scored_with_a_warning(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(folder / "cache", cache)
    manifest = read_manifest(cache)
    kept, lost = manifest.dataset.splits["train"].sentences, LostCounts(rows=1, expressions=3, images=1)
    left_out = {"train": LeftOut(**lost.model_dump(), reasons={"missing images": lost})}
    dataset = manifest.dataset.model_copy(update={"left_out": left_out})
    manifest = manifest.model_copy(update={"dataset": dataset}).sealed()
    (cache / MANIFEST).write_text(manifest.model_dump_json())
    typed = [sys.executable, "-m", "maris_fast.evaluation", str(folder / "model.safetensors"), str(cache)]
    typed += ["--split", "train", "--bootstrap", "0", "--out", str(tmp_path)]
    done = subprocess.run(typed, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"warning: train is not complete, 3 of {3 + kept} expressions" in done.stdout
    found = json.loads((tmp_path / "scores-boxes-test-train.json").read_text())
    assert found["left_out"]["train"]["reasons"] == {"missing images": lost.model_dump()}


def same_numbers(found: Any, wanted: Any) -> None:
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key, value in wanted.items():
            same_numbers(found[key], value)
    else:
        # Ranks have other batches, which can flip a pixel close to a threshold.
        assert found == (pytest.approx(wanted, abs=2e-3) if isinstance(wanted, float | list) else wanted)


def test_the_headline_is_maris_whatever_else_is_asked_for(folder: Path) -> None:
    alone, others = scored(folder, bootstrap=0), scored(folder, protocols=tuple(PROTOCOLS))
    assert "protocols" not in alone["as written"]
    for key, value in alone["as written"].items():
        assert others["as written"][key] == value
    assert others["as written"]["protocols"]["maris"]["minus maris"]["oIoU"] == 0
    assert others["as written"]["protocols"]["maris"]["oIoU"] == others["as written"]["oIoU"]


def test_exchanged_expressions_are_those_of_images_with_several_objects(folder: Path) -> None:
    found = scored(folder, swapped=True, bootstrap=0)
    with CacheReader(folder / "cache", "train") as reader:
        kept, left_out = reader.swappable()
    assert found["exchanged"]["expressions"] == kept
    assert found["as written"]["expressions"] == kept + left_out
    assert left_out > 0
    assert found["exchanged"]["mIoU"] != found["as written"]["mIoU"]


def test_a_cache_that_does_not_know_of_overlaps_is_read_and_it_says_so(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = scored(folder, protocols=tuple(PROTOCOLS))
    command.show(results, "train", breakdown=False)
    said = " ".join(capsys.readouterr().out.split())
    number = results["as written"]["expressions"]
    assert (
        f"For {number} expressions it is unknown which pixels two polygons cover; lavt and lisa keep" in said
    )


def test_overlaps_and_first_sentences_come_through_the_cache(tmp_path: Path) -> None:
    records = default_records()
    target = records[0].targets[0]
    twice = Rle.encode(torch.zeros(target.mask.size).index_fill_(0, torch.tensor([3]), 1).numpy())
    changed = Target(**{**target.model_dump(), "overlap": twice})
    records[0] = records[0].model_copy(update={"targets": (changed, *records[0].targets[1:])})
    dataset = write_dataset(tmp_path / "dataset", {"val": records})
    write_cache(dataset, tmp_path / "cache", tiny_settings(), progress=False)
    with CacheReader(tmp_path / "cache", "val") as reader:
        batches = reader.evaluation_batches(rank=0, world=1, max_expressions=4, swapped=False)
        samples = [sample for batch in batches for sample in batch.samples]
    assert {sample.ref_id for sample in samples if sample.overlap} == {target.ref_id}
    assert {sample.overlap for sample in samples} == {twice, None}
    firsts = [sample.ref_id for sample in samples if sample.first]
    assert len(samples) > len(firsts)
    assert sorted(firsts) == sorted({sample.ref_id for sample in samples})


@pytest.mark.parametrize("ranks", ["0", "1"])
def test_an_unknown_protocol_is_one_sentence_and_status_2(folder: Path, ranks: str) -> None:
    typed = ["eval", str(folder / "model.safetensors"), str(folder / "cache"), "--split", "train"]
    done = maris_fast(*typed, "--protocol", "maris,lvat", "--ranks", ranks)
    assert done.exit_code == 2
    assert "error: no protocol 'lvat'; there are maris, lavt" in done.stderr
