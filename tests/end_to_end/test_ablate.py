"""The paper's ablations by their command: stopped, killed, changed, failing, and resumed."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import Result

from maris_fast.ablation.ranking import base_of, ranking
from maris_fast.ablation.record import ABLATION, Record, alone_in
from maris_fast.ablation.runs import Ablation, changes, choose, compared, every
from maris_fast.cli import ablation as ablation_command
from maris_fast.config import TrainingSettings, load_settings
from maris_fast.errors import ConfigError, InputError
from maris_fast.evaluation.scores_file import headline
from maris_fast.system.locks import Owner, lock_in
from tests.command_line import maris_fast, said
from tests.training.processes import NOTHING_TO_SEE, ROOT, Launched, run

ABLATE = (sys.executable, "-m", "maris_fast.cli", "ablate")
EPOCHS, STEPS = 40, 80
ONE_THREAD = {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ablation started three times: killed in its first run, stopped in it by SIGHUP, finished."""
    folder = tmp_path_factory.mktemp("ablate") / "out"
    first = folder / "without_ma-seed-0"
    with Launched(*command(folder), log=folder.parent / "first.log", **ONE_THREAD) as killed:
        killed.reaches(first, 5, seconds=240)
        killed.process.kill()
        killed.ends(120)
    with Launched(*command(folder), log=folder.parent / "second.log", **ONE_THREAD) as stopped:
        stopped.reaches(first, steps(first)[-1] + 5, seconds=240)
        stopped.process.send_signal(signal.SIGHUP)
        stopped.ends(120)
        assert stopped.process.returncode == 130, stopped.output
        assert "the same command resumes" in stopped.output
    done = run(*command(folder), changed=ONE_THREAD)
    assert done.returncode == 0, done.stdout + done.stderr
    (folder.parent / "stdout").write_text(done.stdout)
    return folder


def command(folder: Path, *more: str, rows: str = "2,ours") -> list[str]:
    quick = ["--quick", "--out", str(folder), "--train-images", "6", "--val-images", "3", "--jobs", "1"]
    settings = [f"schedule.epochs={EPOCHS}", "run.checkpoint_every=1000", "run.log_every=1"]
    settings += ["model.channels=16", "engine.device=cpu", "run.evaluate_every=null", *NOTHING_TO_SEE]
    return [*ABLATE, *quick, "--rows", rows, "--seeds", "0", *settings, *more]


def ablate(*arguments: object) -> Result:
    return maris_fast("ablate", *map(str, arguments))


def trained(run_folder: Path) -> list[dict[str, Any]]:
    """The records of a run's steps, without a truncated last line."""
    lines = (run_folder / "metrics.jsonl").read_text().splitlines(keepends=True)
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [one for one in records if one["kind"] == "train"]


def steps(run_folder: Path) -> list[int]:
    return [one["step"] for one in trained(run_folder)]


def record(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "ablation.json").read_text())
    return content


@pytest.mark.process
def test_a_run_that_was_killed_and_stopped_resumes_and_loses_no_step(folder: Path) -> None:
    for name, stops in (("without_ma-seed-0", 2), ("ours-seed-0", 0)):
        assert steps(folder / name) == list(range(1, STEPS + 1))
        log = (folder / "logs" / f"{name}.log").read_text()
        assert (log.count("stopped after step"), log.count(f"finished {STEPS} steps")) == (stops, 1), log


@pytest.mark.process
def test_the_record_holds_scores_conditions_and_versions(folder: Path) -> None:
    content = record(folder)
    assert content["runs"].keys() == {"without_ma-seed-0", "ours-seed-0"}
    for name, one in content["runs"].items():
        alone = json.loads((folder / name / "scores-scenes-synthetic-val.json").read_text())
        assert one["scores"] == headline(alone["as written"])
        assert one["steps"] == STEPS
    made_with = [content["environments"][one["environment"]] for one in content["runs"].values()]
    assert all(one["packages"]["torch"] and one["commit"] and one["device"] == "cpu" for one in made_with)
    assert content["conditions"]["settings"]["model.channels"] == 16
    assert content["variants"]["without_ma"]["changes"] == {"model.ma_blocks": 0}
    assert content["variants"]["ours"]["changes"] == {}


@pytest.mark.process
def test_the_papers_row_is_above_the_measured_one(folder: Path) -> None:
    lines = (folder.parent / "stdout").read_text().splitlines()
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if "│" in line]
    scores = {one["row"]: one["scores"] for one in record(folder)["runs"].values()}
    place = cells.index(["#2", "w/o MA", "77.28", "69.03", "39.94", "74.32", "-1.88"])
    here = [f"{100 * scores['without_ma'][name]:.2f}" for name in ("Pr@70", "Pr@80", "Pr@90", "oIoU")]
    away = 100 * (scores["without_ma"]["oIoU"] - scores["ours"]["oIoU"])
    assert cells[place + 1] == ["", "here, seed 0", *here, f"{away:+.2f}"]
    assert ["#1", "w/o FE", "71.92", "64.51", "37.84", "69.19", "-7.01"] in cells
    assert any("compare differences to Ours, not levels" in line for line in lines)


@pytest.mark.process
def test_a_changed_setting_is_refused_by_name(folder: Path) -> None:
    before = (folder / "ablation.json").read_bytes()
    words = command(folder, "optimiser.lr=1.0e-5")[len(ABLATE) :]
    refused = ablate(*words)
    assert refused.exit_code == 2
    assert "optimiser.lr was 0.002, is now 1e-05" in said(refused)
    assert (folder / "ablation.json").read_bytes() == before
    older = json.loads(before)
    del older["conditions"]["settings"]["model.input_norm"]  # as in a record from before it was a setting
    (folder / "ablation.json").write_text(json.dumps(older))
    refused = ablate(*command(folder, "model.input_norm=layer")[len(ABLATE) :])
    assert "model.input_norm was none, is now layer" in said(refused)
    assert ablate(*command(folder)[len(ABLATE) :]).exit_code == 0
    (folder / "ablation.json").write_bytes(before)
    more = [word if word != "6" else "7" for word in command(folder)[len(ABLATE) :]]
    assert "holds 6 scenes to train on" in said(ablate(*more))


@pytest.mark.process
def test_a_row_that_fails_does_not_lose_the_others(folder: Path) -> None:
    weights = folder / "ours-seed-0" / "best.safetensors"
    before = weights.stat().st_mtime_ns
    (folder / "without_mask-seed-0").mkdir()
    (folder / "without_mask-seed-0" / "notes.txt").write_text("somebody else's")
    done = ablate(*command(folder, rows="8,2,4")[len(ABLATE) :])
    assert done.exit_code == 1, done.output
    told = " ".join(done.stderr.split())
    assert "failed: without_mask-seed-0: error: run.folder" in told
    assert "1 of 3 runs failed" in told
    assert "here, seed 0" in done.stdout
    assert weights.stat().st_mtime_ns == before
    assert record(folder)["runs"]["without_mask-seed-0"]["state"] == "failed"


@pytest.mark.process
def test_a_page_counts_the_runs_of_an_ablation(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    done = maris_fast("report", str(folder), "--out", str(page))
    assert done.exit_code == 0, done.output
    text = page.read_text()
    assert "On scenes (synthetic) val, not the paper" in text
    for one in record(folder)["runs"].values():
        if one["state"] == "done":
            assert f"<td>{100 * one['scores']['oIoU']:.2f}</td>" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("cache", "--rows", "12"),
            "no YAML file or folder of them; rows are 1 (without_fe), 2 (without_ma)",
        ),
        (("cache", "--rows", "{new}.yaml"), "no such row, and no YAML file"),
        (("cache", "--rows", "ablations"), "there is another row as_printed; rename as_printed.yaml"),
        (("cache", "--seeds", "one"), "whole numbers"),
        (("cache", "run.seed=3"), "sets run.seed of each run itself"),
        (("cache", "--rows", "tau_01,te", "model.tau=0.2"), "would undo what makes tau_01; leave it out"),
        ((), "CACHE is missing"),
        (("--out", "{here}", "{here}"), "is not empty and holds no ablation"),
        (("--out", "{new}", "{here}"), "holds no feature cache"),
    ],
)
def test_a_mistake_is_said_before_anything_is_trained(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    words = [word.format(here=ROOT / "docs", new=tmp_path / "new") for word in arguments]
    result = ablate(*words)
    assert result.exit_code == 2
    assert message in said(result)


def test_the_list_has_every_fragment_and_trains_nothing(tmp_path: Path) -> None:
    result = ablate("--list", "--out", tmp_path / "none")
    assert result.exit_code == 0, result.output
    fragments = (ROOT / "train" / "configs" / "ablations").glob("*.yaml")
    assert all(f"ablations/{file.name}" in result.output for file in fragments)
    ours = next(line for line in result.output.splitlines() if "ours.yaml" in line)
    assert "6,098,880" in ours
    assert not (tmp_path / "none").exists()


def test_rows_of_ones_own_are_files_or_a_folder(tmp_path: Path) -> None:
    (tmp_path / "narrow.yaml").write_text("model:\n  channels: 64\n")
    result = ablate("--list", "--rows", f"ours,{tmp_path / 'narrow.yaml'},readings")
    assert result.exit_code == 0, result.output
    names = [line.split("│")[2].strip() for line in result.output.splitlines() if line.startswith("│")]
    readings = sorted(file.stem for file in (ROOT / "train" / "configs" / "readings").glob("*.yaml"))
    assert len(readings) > 3
    assert names == ["ours", "narrow", *readings]


def test_each_variant_of_the_quickstart_but_the_first_changes_it() -> None:
    configs = ROOT / "train" / "configs"
    settings = ("data.cache=cache", "run.folder=run")
    base = load_settings(TrainingSettings, configs / "quickstart.yaml", settings)
    rows = {row.name: [configs / "quickstart.yaml", row.fragment] for row in choose("quickstart_variants")}
    changed = {
        name: changes(load_settings(TrainingSettings, files, settings), base) for name, files in rows.items()
    }
    assert changed.pop("quickstart") == {}
    assert len(changed) == 10
    assert all(changed.values())


@pytest.mark.process
def test_a_custom_row_is_compared_with_ours(folder: Path, tmp_path: Path) -> None:
    """The record of a finished ablation as the next run finds it, with a row that the paper does not have."""
    content = record(folder)
    content["variants"]["my_row"] = {**content["variants"]["ours"], "title": "my row"}
    content["variants"]["my_row"]["changes"] = {"model.heads": 4}
    content["runs"]["my_row-seed-0"] = {**content["runs"]["ours-seed-0"], "row": "my_row"}
    (tmp_path / "ablation.json").write_text(json.dumps(content))
    found = ranking(Record.read(tmp_path))
    assert found.head == ("Row", "Changes", "Seeds", "Pr@70", "oIoU", "minus Ours")
    scores = content["runs"]["ours-seed-0"]["scores"]
    numbers = [f"{100 * scores[name]:.2f}" for name in ("Pr@70", "oIoU")]
    ours, *others = found.cells()
    assert ours == ("Ours", "–", "1", *numbers, "–")
    assert ("my row", "heads: 4", "1", *numbers, "+0.00") in others

    for name in content["runs"]:
        (tmp_path / name).symlink_to(folder / name.replace("my_row", "ours"))
    page = tmp_path / "page.html"
    assert maris_fast("report", tmp_path, "--no-draw", "--out", page).exit_code == 0
    assert f"<h3>Ablation {tmp_path.name}</h3>" in page.read_text()
    assert '<th scope="row">my row</th><td>heads: 4</td><td>1</td>' in page.read_text()


def test_rows_are_compared_with_the_unchanged_one_where_ours_is_not_among_them() -> None:
    def of(oiou: float, seed: int, row: str) -> dict[str, Any]:
        scores = {"Pr@70": 0.5, "Pr@80": 0.5, "Pr@90": 0.5, "oIoU": oiou}
        return {"row": row, "seed": seed, "state": "done", "scores": scores}

    changes = {"wide": {"model.channels": 512}, "worse": {"optimiser.lr": 1.0}, "base": {}}
    kept = Record({}, {name: {"title": name, "changes": changed} for name, changed in changes.items()})
    oious = {("wide", 0): 0.5, ("wide", 1): 0.7, ("worse", 1): 0.1, ("base", 0): 0.4, ("base", 1): 0.5}
    kept.runs = {f"{row}-{seed}": of(oiou, seed, row) for (row, seed), oiou in oious.items()}
    cells = {row[0]: row for row in ranking(kept).cells()}
    assert list(cells) == ["base", "wide", "worse"]
    assert cells["wide"][1:3] == ("channels: 512", "2")
    assert cells["wide"][-2:] == ("60.00 ± 14.14", "+15.00 ± 7.07 (+10.00, +20.00)")
    assert cells["worse"][1:] == ("optimiser.lr: 1.0", "1", "50.00", "10.00", "-40.00")
    changing = {name: kept.variants[name] for name in ("wide", "worse")}
    assert base_of(replace(kept, variants=changing)) == "wide"
    with pytest.raises(InputError, match="none of the rows never has a finished run"):
        ranking(Record({}, {"never": {"title": "never", "changes": {}}}))


@pytest.mark.parametrize(
    ("conditions", "channels", "told"),
    [
        ({"cache_sha256": "b"}, 64, "the cache (SHA-256) was a, is now b"),
        ({"split": "testA"}, 64, "the split was val, is now testA"),
        ({}, 32, "narrow: model.channels was 64, is now 32"),
    ],
)
def test_rows_of_another_cache_split_or_setting_are_not_added_to_those_done(
    conditions: dict[str, Any], channels: int, told: str
) -> None:
    settings = compared(load_settings(TrainingSettings, (), ("data.cache=cache", "run.folder=run")))
    before = Record(
        {"cache_sha256": "a", "split": "val", "settings": settings},
        {"narrow": {"changes": {"model.channels": 64}}},
        {"narrow-seed-0": {"row": "narrow", "seed": 0, "state": "done"}},
    )
    assert before.went_on_from(before).runs == before.runs
    variants = {"narrow": {"changes": {"model.channels": channels}}}
    with pytest.raises(ConfigError) as raised:
        Record({**before.conditions, **conditions}, variants).went_on_from(before)
    assert str(raised.value).splitlines()[1:-1] == [f"  {told}"]


def test_a_folder_is_refused_to_a_second_ablation_and_while_runs_of_a_killed_one_live(tmp_path: Path) -> None:
    with alone_in(tmp_path):
        with pytest.raises(ConfigError, match="is in use by process "), alone_in(tmp_path):
            pytest.fail("two owners")
        assert lock_in(tmp_path).exists()
    (tmp_path / ABLATION).touch()
    run_folder = tmp_path / "ours-seed-0"
    run_folder.mkdir()
    lock_in(run_folder).write_text(json.dumps(asdict(Owner.here())))
    with pytest.raises(ConfigError, match=f"{run_folder} is in use by process "), alone_in(tmp_path):
        pytest.fail("a run is alive")
    lock_in(run_folder).unlink()
    with alone_in(tmp_path):
        pass


def test_runs_at_a_time_have_gpus_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    runs = every(choose("ours"), [0])
    commands = ablation_command._Steps(
        Ablation(tmp_path, tmp_path / "cache", (), (), "val", runs), ranks=2, jobs=2
    )
    for place, gpus in enumerate(("0,1", "2,3")):
        training, scoring = (one.words for one in commands(runs[0], place))
        assert f"CUDA_VISIBLE_DEVICES={gpus}" in training
        assert f"CUDA_VISIBLE_DEVICES={gpus}" in scoring
        assert list(scoring[-2:]) == ["--device", "auto"]
    with pytest.raises(ConfigError, match="--ranks times --jobs is 5, and there are 4 GPUs"):
        ablation_command._gpus(5)
