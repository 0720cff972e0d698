"""The study of eqs. 3-5: a run's folder becomes a row, and rows become means and differences."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from maris_fast.ablation.record import DONE, Record
from maris_fast.bench.drawing.equation_readings import plot, readings_block
from maris_fast.bench.equation_readings import PARTS, keep
from maris_fast.bench.results import load

SHARED = {
    "model.fusion": "mutual",
    "model.ma_blocks": 2,
    "model.keep": "relevant",
    "model.language_norm": "none",
    "model.empty_rows": "none",
    "model.score_scale": "none",
}  # as of a study from before visual_center existed
BLOCK = {"kept_pairs": 0.5, "empty_pixels": 0.25, "empty_words": 0.0, "score": 3.0, "gathered": 2.0}
WORDS = {"cosine_before": 0.1, "cosine_after": 0.75}
ROWS = {
    "gate": ({}, (0.40, 0.44)),
    "columns_scaled": (
        {"model.keep": "all", "model.language_norm": "columns", "model.score_scale": "channels"},
        (0.60, 0.66),
    ),
    "sdf": ({"model.fusion": "spatial_dynamic"}, (0.65,)),
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    """Part 10x10 as ``ablate`` leaves it: two readings of two seeds, a row of one seed, and a failed run."""
    folder = tmp_path / "study"
    record = Record(
        conditions={"settings": SHARED},
        variants={name: {"title": name, "changes": changes} for name, (changes, _) in ROWS.items()},
    )
    record.environments.append(
        {"device": "cpu", "processor_cores": 2, "packages": {"torch": "2.11.0"}, "commit": "abc"}
    )
    for name, (_, scores) in ROWS.items():
        for seed, oiou in enumerate(scores):
            run = {"row": name, "seed": seed, "state": DONE, "steps": 200, "train_seconds": 1.0}
            record.runs[f"{name}-seed-{seed}"] = {**run, "scores": {"oIoU": oiou}, "environment": 0}
            _log(folder / "10x10" / f"{name}-seed-{seed}", attention=name != "sdf")
    record.runs["sdf-seed-1"] = {"row": "sdf", "seed": 1, "state": "failed", "error": "stopped"}
    record.save(folder / "10x10")
    return folder


def _log(run: Path, attention: bool) -> None:
    run.mkdir(parents=True)
    lines: list[dict[str, Any]] = [
        {"kind": "train", "step": 100, "loss": 0.8},
        {"kind": "attention", "step": 100, "block_1/kept_pairs": 0.9},
        {"kind": "train", "step": 200, "loss": 0.25},
    ]
    if attention:
        health = {f"block_{block}/{key}": value for block in (1, 2) for key, value in (BLOCK | WORDS).items()}
        lines.append({"kind": "attention", "step": 200, **health})
    else:
        del lines[1]
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_a_table_has_means_deviations_and_differences_within_seeds(study: Path, tmp_path: Path) -> None:
    file = keep(study, tmp_path / "results")
    assert file == tmp_path / "results" / "cpu" / "equation_readings.json"
    suite = load(file)
    assert [row["row"] for row in suite.rows] == ["columns_scaled", "columns_scaled", "gate", "gate", "sdf"]
    lines = readings_block(suite).splitlines()
    assert lines[0] == "**10x10: 100 tokens, random encoders, 200 steps**"
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("| ")]
    assert [row[:4] for row in rows[1:]] == [
        ["SDF (VLT)", "65.0", "+25.0", "1"],
        ["no gate, column means, S / √C", "63.0 ± 4.2", "+21.0 ± 1.4", "2"],
        ["gate, as printed", "42.0 ± 2.8", "–", "2"],
    ]
    assert rows[2][4:] == ["0.50 / 0.50", "0.25 / 0.25", "0.75 / 0.75"]
    assert rows[1][4:] == ["–", "–", "–"]


def test_runs_of_another_folder_stay_and_those_trained_again_are_replaced(
    study: Path, tmp_path: Path
) -> None:
    before = load(keep(study, tmp_path / "results") or Path()).rows
    other = tmp_path / "other"
    record = Record.read(study / "10x10")
    record.runs = {"sdf-seed-0": {**record.runs["sdf-seed-0"], "scores": {"oIoU": 0.71}}}
    record.environments[0]["commit"] = "def"
    for part in ("10x10", "16x16"):
        _log(other / part / "sdf-seed-0", attention=False)
        record.save(other / part)
    suite = load(keep(other, tmp_path / "results") or Path())
    assert suite.rows[:-2] == before[:-1]
    assert [(row["part"], row["scores"]["oIoU"], row["commit"]) for row in suite.rows[-2:]] == [
        ("10x10", 0.71, "def"),
        ("16x16", 0.71, "def"),
    ]
    assert "commits abc, def;" in readings_block(suite)


def test_the_plot_is_the_same_file_for_the_same_results(study: Path, tmp_path: Path) -> None:
    suite = load(keep(study, tmp_path / "results") or Path())
    plot(suite, tmp_path / "one.png")
    plot(suite, tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()


def test_nothing_is_written_where_nothing_is_done(tmp_path: Path) -> None:
    assert keep(tmp_path, tmp_path / "results") is None
    assert not (tmp_path / "results").exists()


def test_grids_of_a_part_are_whole_patches() -> None:
    assert {name: part.tokens for name, part in PARTS.items() if "-" not in name} == {
        "10x10": 100,
        "16x16": 256,
        "28x28": 784,
        "56x56": 3136,
    }
