"""The commands of ``maris-fast bench`` as a user runs them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from maris_fast.bench import suite_runs
from maris_fast.bench.drawing.suites import suite_block
from maris_fast.bench.report import measured
from maris_fast.bench.results import ROOT, load
from maris_fast.cli import app
from maris_fast.data_shards.scaling import measured_rates
from maris_fast.data_shards.synthetic.phrasing import KINDS


def maris_fast(*arguments: object, **changed: str | None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **changed}
    return subprocess.run(
        [sys.executable, "-m", "maris_fast.cli", *map(str, arguments)],
        env={name: value for name, value in environment.items() if value is not None},
        capture_output=True,
        text=True,
    )


def called(*arguments: object) -> tuple[int, str]:
    """Exit status and output of a command run in this process."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, " ".join((result.output + (result.stderr or "")).split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("run", "-k", "small"), "give --out FOLDER"),
        (("run", "convolution"), "no suite convolution; known are"),
        (("report", "--root", "{folder}"), "cannot be read as results"),
        (("keep", "{folder}", "--root", "{folder}"), "cannot be read as results"),
    ],
)
def test_what_cannot_be_done_is_said(arguments: tuple[object, ...], message: str, tmp_path: Path) -> None:
    status, said = called("bench", *(str(a).format(folder=tmp_path) for a in arguments))
    assert status == 2
    assert message in said
    assert "Traceback" not in said
    assert not any(tmp_path.iterdir())


@pytest.mark.process
def test_run_writes_a_suite_with_its_conditions_once_and_a_row_a_case(tmp_path: Path) -> None:
    done = maris_fast(
        "bench", "run", "mutual_attention", "-k", "small-eager", "--out", tmp_path, CUDA_VISIBLE_DEVICES=""
    )
    assert done.returncode == 0, done.stdout + done.stderr
    suite = load(tmp_path / "cpu" / "mutual_attention.json")
    assert [(row["impl"], row["part"]) for row in suite.rows] == [
        (impl, part) for impl in ("eager", "eager-autocast") for part in ("forward", "backward", "both")
    ]
    assert suite.environment["device"] == "cpu"
    assert suite.environment["packages"]["torch"]
    for row in suite.rows:
        assert row["ms"]["0.1"] <= row["ms"]["0.5"] <= row["ms"]["0.9"]
        assert row["GBps"] == pytest.approx(row["must_move"] / row["ms"]["0.5"] / 1e6, abs=0.01)
        assert row["share_of_copy"] == pytest.approx(row["GBps"] / row["copy_GBps"], abs=1e-3)
        assert {"load_average", "machine_shared"} <= row.keys()
    lines = (tmp_path / "cpu" / "mutual_attention.json").read_text().splitlines()
    rows = lines[lines.index(' "rows": [') + 1 : -2]
    assert [json.loads(line.strip(" ,")) for line in rows] == suite.rows


@pytest.mark.process
def test_a_suite_with_a_wrong_result_keeps_no_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = tmp_path / "bench"
    bench.mkdir()
    for name in ("conftest.py", "test_mutual_attention.py"):
        shutil.copy(ROOT / "bench" / "suites" / name, bench)
    text = (bench / "test_mutual_attention.py").read_text()
    right = "            outputs = forward(leaves)\n        except"
    assert right in text
    broken = text.replace(right, right.replace("forward(leaves)", "tuple(1.01 * t for t in forward(leaves))"))
    (bench / "test_mutual_attention.py").write_text(broken)
    monkeypatch.setattr(suite_runs, "SUITE_FILES", bench)
    out = tmp_path / "results"
    with pytest.raises(suite_runs.BenchmarkError, match="a case failed"):
        list(suite_runs.run(["mutual_attention"], out, "small-eager-forward"))
    assert not [*out.iterdir()]
    with pytest.raises(suite_runs.ConfigError, match="no case of mutual_attention matches -k 'nothing'"):
        list(suite_runs.run(["mutual_attention"], out, "nothing"))


DRAWN = (
    "README.md",
    "docs/ablations.md",
    "docs/benchmarks.md",
    "docs/datasets.md",
    "docs/quickstart.md",
    "docs/training.md",
    "data_shards/cache/README.md",
    "docs/scaling.md",
    "docs/scoring.md",
    "data_shards/stream/README.md",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The documents that the report rewrites, and the results of the quickstart on a CPU."""
    for name in (*DRAWN, "bench/results/cpu/quickstart.json"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def row(impl: str, ms: float, **more: Any) -> dict[str, Any]:
    quantiles = {"0.1": 0.9 * ms, "0.25": 0.95 * ms, "0.5": ms, "0.75": 1.1 * ms, "0.9": 1.2 * ms}
    return {"shape": "training", "impl": impl, "part": "both", "timer": "device", "ms": quantiles, **more}


def write_suite(checkout: Path, device: str, rows: list[dict[str, Any]]) -> None:
    environment = {"device": device, "packages": {"torch": "2.11.0", "triton": "3.6.0"}}
    environment |= {"threads_per_rank": 1, "processor_cores": 2}
    suite = {"suite": "mutual_attention", "date": "2026-11-23T00:00:00+00:00", "commit": "a" * 40}
    folder = checkout / "bench" / "results" / device.lower().replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    content = {**suite, "dirty": False, "environment": environment, "rows": rows}
    (folder / "mutual_attention.json").write_text(json.dumps(content))


def test_report_draws_tables_and_plots_from_results_alone_and_twice_the_same(checkout: Path) -> None:
    saved = {"saved_bytes_a_pair": 3 << 19}
    ours = row("triton", 0.5, GBps=3000.0, share_of_copy=0.75, peak_bytes_over_inputs=64 << 20, **saved)
    half = row("flex-attention", 0.25, computes="A Z_l only")
    write_suite(
        checkout, "NVIDIA H100", [row("eager-autocast", 2.25), row("compiled", 1.5, **saved), half, ours]
    )
    write_suite(checkout, "cpu", [row("eager", 7.0, load_average=3.25, machine_shared=True, timer="wall")])
    status, said = called("bench", "report", "--root", checkout)
    assert status == 0, said
    drawn = (checkout / "docs" / "benchmarks.md").read_text()
    assert (
        "| mutual_attention, NVIDIA H100, ms | eager-autocast | compiled | flex-attention (A Z_l only) "
        "| triton | GB/s | of a copy | eager-autocast / triton | compiled / triton | peak memory |"
    ) in drawn
    assert "| training: both | 2.25 | 1.5 | 0.25 | 0.5 | 3000 | 75% | 4.50 | 3.00 | 64 MiB |" in drawn
    assert "| saved for the backward, MiB a pair | compiled | triton |" in drawn
    assert "| training | 1.50 | 1.50 |" in drawn
    assert "| training: both | 7 |" in drawn
    assert "the machine was shared during 1 of 1 rows (load average up to 3.2)" in drawn
    assert "they have not been timed" not in drawn
    plots = sorted((checkout / "docs").glob("*.png"))
    assert [plot.name for plot in plots] == ["mutual_attention-cpu.png", "mutual_attention-nvidia-h100.png"]
    before = [drawn, *(plot.read_bytes() for plot in plots)]
    assert called("bench", "report", "--root", checkout)[0] == 0
    again = (checkout / "docs" / "benchmarks.md").read_text()
    assert [again, *(plot.read_bytes() for plot in plots)] == before


def test_a_block_says_plainly_where_the_kernels_were_not_timed(checkout: Path) -> None:
    write_suite(checkout, "cpu", [row("eager", 7.0)])
    suites = measured(checkout / "bench" / "results")
    assert "**they have not been timed**" in suite_block(suites, {"mutual_attention cpu": "plot.png"})


def test_report_needs_the_block_that_holds_a_table(checkout: Path) -> None:
    write_suite(checkout, "cpu", [row("eager", 7.0)])
    document = checkout / "docs" / "benchmarks.md"
    document.write_text(document.read_text().replace("<!-- benchmarks:begin -->", ""))
    status, said = called("bench", "report", "--root", checkout)
    assert status == 2
    assert "has no block benchmarks" in said


def test_report_refuses_a_results_file_that_is_cut(checkout: Path) -> None:
    write_suite(checkout, "cpu", [row("eager", 7.0)])
    file = checkout / "bench" / "results" / "cpu" / "mutual_attention.json"
    file.write_text(file.read_text()[:-20])
    readme = (checkout / "README.md").read_text()
    status, said = called("bench", "report", "--root", checkout)
    assert status == 2
    assert "holds no benchmark results" in said
    assert (checkout / "README.md").read_text() == readme


def test_the_committed_tables_are_those_of_the_committed_results(checkout: Path) -> None:
    """No figure is edited by hand: drawing again changes nothing."""
    shutil.copytree(ROOT / "bench" / "results", checkout / "bench" / "results", dirs_exist_ok=True)
    assert called("bench", "report", "--root", checkout)[0] == 0
    for name in DRAWN:
        assert (checkout / name).read_text() == (ROOT / name).read_text()


def test_keep_copies_a_quickstarts_scores_with_where_they_were_made(checkout: Path) -> None:
    kept = json.loads((checkout / "bench/results/cpu/quickstart.json").read_text())
    run = checkout / "runs" / "quickstart"
    (run / "training").mkdir(parents=True)
    environment = {**kept["environment"], "device": "NVIDIA H100 PCIe"}
    (run / "training" / "environment.json").write_text(json.dumps(environment))
    rows = [{"kind": "train", **kept["training"][0]}, {"kind": "evaluation", "oIoU": 0.5}]
    (run / "training" / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("seconds", "scores"):
        (run / f"{name}.json").write_text(json.dumps(kept[name]))
    (run / "predictions.png").write_bytes(b"a picture")
    (run / "training" / "settings.yaml").write_text("run: {seed: 0}")
    status, said = called("bench", "keep", run, "--root", checkout)
    assert status == 0, said
    written = json.loads((checkout / "bench/results/nvidia-h100-pcie/quickstart.json").read_text())
    assert written == {**kept, "date": written["date"], "environment": environment} | {
        "training": kept["training"][:1]
    }
    assert (checkout / "docs" / "quickstart.png").read_bytes() == b"a picture"


def test_quickstarts_of_other_seeds_stand_in_one_line_beside_that_of_seed_0(checkout: Path) -> None:
    kept = json.loads((checkout / "bench/results/cpu/quickstart.json").read_text())
    for seed, oiou in ((2, 0.75), (1, 0.5)):
        run = checkout / "runs" / str(seed)
        (run / "training").mkdir(parents=True)
        (run / "training" / "environment.json").write_text(json.dumps(kept["environment"]))
        (run / "training" / "metrics.jsonl").write_text("")
        (run / "training" / "settings.yaml").write_text(f"run: {{seed: {seed}}}")
        (run / "seconds.json").write_text(json.dumps(kept["seconds"]))
        kept["scores"]["as written"]["oIoU"] = oiou
        (run / "scores.json").write_text(json.dumps(kept["scores"]))
        status, said = called("bench", "keep", run, "--root", checkout)
        assert status == 0, said
    first = json.loads((checkout / "bench/results/cpu/quickstart.json").read_text())
    assert called("bench", "report", "--root", checkout)[0] == 0
    oiou = first["scores"]["as written"]["oIoU"]
    line = (
        f"oIoU with `run.seed` 0, 1, 2: {oiou:.3f}, 0.500, 0.750 as written, mean {(oiou + 1.25) / 3:.3f}; "
    )
    for name in ("README.md", "docs/quickstart.md"):
        assert line in (checkout / name).read_text()


def write_ablation(folder: Path, **last: object) -> None:
    """Write two rows of two seeds as ``maris-fast ablate`` records them; ``last`` changes the last run."""
    folder.mkdir(parents=True)
    packages = {"torch": "2.11.0"}
    here = {"device": "NVIDIA H100 PCIe", "processor_cores": 2, "ranks": 1, "commit": "b" * 40}
    oious = {("ours", 0): 0.5, ("ours", 1): 0.6, ("without_ma", 0): 0.45, ("without_ma", 1): 0.59}
    runs = {
        f"{row}-seed-{seed}": {
            **{"row": row, "seed": seed, "state": "done", "steps": 100, "train_seconds": 90.0},
            "scores": {"oIoU": oiou, "Pr@70": 0.4, "Pr@80": 0.3, "Pr@90": 0.2},
            "environment": 0,
        }
        for (row, seed), oiou in oious.items()
    }
    runs["without_ma-seed-1"] |= last
    conditions = {
        **{"data": {"name": "scenes", "split_by": "synthetic"}, "split": "val", "images": 120},
        **{"expressions": 840, "train_images": 1200, "random_encoders": ["sam", "text"]},
    }
    content = {
        **{"format_version": 1, "started": "2026-11-25T00:00:00+00:00", "conditions": conditions},
        **{"variants": {"ours": {}, "without_ma": {}}, "runs": runs},
        "environments": [{**here, "packages": packages}],
    }
    (folder / "ablation.json").write_text(json.dumps(content))


def test_an_ablation_is_kept_and_drawn_with_what_its_seeds_say(checkout: Path) -> None:
    write_ablation(checkout / "runs" / "ablate")
    status, said = called("bench", "keep", checkout / "runs" / "ablate", "--root", checkout)
    assert status == 0, said
    assert (checkout / "bench/results/nvidia-h100-pcie/ablations.json").is_file()
    assert called("bench", "report", "--root", checkout)[0] == 0
    assert measured_rates(checkout / "bench/results/nvidia-h100-pcie") == {}
    page = (checkout / "docs" / "ablations.md").read_text()
    assert "| #2 | w/o MA | 77.28 | 69.03 | 39.94 | 74.32 | -1.88 |" in page
    assert (
        "|  | here, 2 seeds | 40.00 ± 0.00 | 30.00 ± 0.00 | 20.00 ± 0.00 | 52.00 ± 9.90 "
        "| -3.00 ± 2.83 (-5.00, -1.00) |"
    ) in page
    assert "- Ours is ahead of w/o MA in 2 of 2 seeds; w/o MA minus Ours: -3.00 ± 2.83" in page
    assert "4 runs of 100 steps on 1,200 images, 6.0 minutes of training in all" in page
    assert "NVIDIA H100 PCIe, 2 cores, ranks of a run: 1, torch 2.11.0, commit bbbbbbbbbbbb" in page


def test_variants_of_the_quickstart_stand_beside_the_papers_rows(checkout: Path) -> None:
    folder = checkout / "runs" / "quickstart_variants"
    write_ablation(folder)
    record = json.loads((folder / "ablation.json").read_text())
    heads = {"title": "eight heads", "changes": {"model.heads": 8}}
    record["variants"] = {"eight_heads": heads, "quickstart": {"title": "quickstart", "changes": {}}}
    for run in record["runs"].values():
        run["row"] = {"ours": "quickstart", "without_ma": "eight_heads"}[run["row"]]
        run["scores"]["kinds"] = {kind: {"oIoU": run["scores"]["oIoU"] / 2} for kind in KINDS}
    (folder / "ablation.json").write_text(json.dumps(record))
    status, said = called("bench", "keep", folder, "--root", checkout)
    assert status == 0, said
    assert not (checkout / "bench/results/nvidia-h100-pcie/ablations.json").exists()
    assert called("bench", "report", "--root", checkout)[0] == 0
    for name in ("docs/quickstart.md", "docs/training.md"):
        page = (checkout / name).read_text()
        assert (
            f"| quickstart | – | 2 | 55.00 ± 7.07 | – |{' 27.50 |' * 6}\n"
            "| eight heads | heads: 8 | 2 | 52.00 ± 9.90 | -3.00 ± 2.83 (-5.00, -1.00) | 26.00 "
        ) in page
        assert "4 runs of 100 steps" in page


def test_the_quickstart_on_bf16_features_is_compared_with_int8_seed_by_seed(checkout: Path) -> None:
    for name, oious in (("quickstart_variants", (0.7, 0.8)), ("quickstart_bf16", (0.72, 0.78))):
        folder = checkout / "runs" / name
        write_ablation(folder)
        record = json.loads((folder / "ablation.json").read_text())
        record["variants"] = {"quickstart": {"title": "quickstart", "changes": {}}}
        record["runs"] = {f"quickstart-seed-{seed}": record["runs"][f"ours-seed-{seed}"] for seed in (0, 1)}
        for run, oiou in zip(record["runs"].values(), oious, strict=True):
            run["row"] = "quickstart"
            run["scores"] |= {"oIoU": oiou, "kinds": {kind: {"oIoU": oiou} for kind in KINDS}}
        (folder / "ablation.json").write_text(json.dumps(record))
        status, said = called("bench", "keep", folder, "--root", checkout)
        assert status == 0, said
    assert called("bench", "report", "--root", checkout)[0] == 0
    page = (checkout / "data_shards/cache/README.md").read_text()
    assert (
        "| int8 | 2 | 75.00 ± 7.07 | – |\n| bf16 | 2 | 75.00 ± 4.24 | +0.00 ± 2.83 (+2.00, -2.00) |" in page
    )


def test_an_ablation_with_a_failed_run_is_not_kept(checkout: Path) -> None:
    write_ablation(checkout / "runs" / "ablate", state="failed", error="error: no")
    status, said = called("bench", "keep", checkout / "runs" / "ablate", "--root", checkout)
    assert status == 2
    assert "has 1 failed and 3 finished runs" in said
    assert not (checkout / "bench/results/nvidia-h100-pcie").exists()
