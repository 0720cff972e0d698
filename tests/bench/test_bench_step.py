"""The waterfall of a training step at its smallest size: that it runs, and what it reports for a row."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from maris_fast.bench import results
from maris_fast.bench.drawing.step_table import step_block
from maris_fast.bench.first_on_gpu import TRAINING_ROWS, TRAINING_SECONDS
from maris_fast.bench.step import SIZES, for_plans, waterfall
from maris_fast.config import ModelSettings, TrainingSettings, load_settings
from maris_fast.data_shards.scaling import measured_rates
from maris_fast.model.flops import training_flops

pytestmark = pytest.mark.process

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
TINY = SIZES["tiny"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> results.Suite:
    """The rows without compilation, measured as a user would; the fused one is for CUDA only."""
    out = tmp_path_factory.mktemp("step")
    command = [sys.executable, "-m", "maris_fast.cli", "bench", "step", "--size", "tiny", "--rounds", "4"]
    command += [part for row in range(1, 10) for part in ("--only", str(row))]
    done = subprocess.run(
        [*command, "--peak-tflops", "0.5", "--out", str(out)],
        # At sizes this small a second thread only adds waiting, and much more of it on a busy machine.
        env={
            **os.environ,
            **{"PYTHONPATH": str(results.ROOT), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return results.load(out / "cpu" / "step.json")


def test_each_row_adds_one_technique_to_the_row_before() -> None:
    for device in (CPU, CUDA):
        rows = waterfall(TINY, device)
        carried = [row for row in rows if row.carried_on]
        for before, after in pairwise(carried):
            changed = {
                key
                for key in ("source", "expressions_per_image", "model", "engine")
                if getattr(before, key) != getattr(after, key)
            }
            assert len(changed) == 1 or (after.only_on_cuda and device == CPU), after.name
        alone, last = rows[-1], carried[-1]
        assert (alone.model, alone.engine, alone.source) == (last.model, last.engine, last.source)
        assert (alone.expressions_per_image, last.expressions_per_image) == (1, TINY.each)


def test_a_plan_counts_with_the_paper_preset_at_full_size_alone(tmp_path: Path) -> None:
    told = [
        (row, for_plans(row, size, [900.0, 1000.0, 1200.0]))
        for size in SIZES.values()
        for row in waterfall(size, CUDA)
    ]
    ((row, left),) = [(row, left) for row, left in told if left]
    paper = load_settings(TrainingSettings, results.ROOT / "train" / "configs" / "refcoco.yaml")
    assert row.engine == {"precision": paper.engine.precision, "compile": True}
    assert (row.model["heads"], paper.engine.compile) == (paper.model.heads, "auto")
    suite = results.Suite("step", "2026-01-01", "c0ffee", False, {"device": "a GPU"}, [left])
    suite.save(tmp_path)
    (folder,) = tmp_path.iterdir()
    (name, rate), *others = measured_rates(folder).items()
    assert (name, rate.value, others) == ("step_expressions_per_s", 1000.0, [])
    assert rate.source == "measured: training step, compiled, a GPU, step.json"


def test_a_row_has_the_fast_presets_settings_and_is_measured_in_a_gpus_first_minutes() -> None:
    files = [results.ROOT / "train" / "configs" / name for name in ("refcoco.yaml", "presets/fast.yaml")]
    preset = load_settings(TrainingSettings, files).model
    rows = waterfall(SIZES["full"], CUDA)
    (number,) = (number for number, row in enumerate(rows, 1) if row.name.startswith("fast preset:"))
    changed = {"heads": preset.heads, "decoder_self_attention": preset.decoder_self_attention}
    assert rows[number - 1].model.items() >= changed.items()
    assert number in TRAINING_ROWS
    assert number in TRAINING_SECONDS


def test_a_row_tells_speed_memory_and_what_of_the_peak_it_uses(measured: results.Suite) -> None:
    *rows, fused, efficient, _, _ = measured.rows
    assert "left_out" in fused
    settings = ModelSettings(channels=TINY.channels, heads=TINY.heads)
    for row, most, expressions, grid in (
        (rows[2], 28, 28, (8, 8)),
        (rows[3], 28, 28, TINY.grid),
        (rows[4], 4, 28, TINY.grid),
        (efficient, 8, 56, TINY.grid),
    ):
        assert all(0.8 * most <= images / row["steps"] <= most for images in row["images"])
        each = training_flops(settings, TINY.visual_channels, TINY.text_channels, grid, 4)
        counted = zip(row["expressions_per_s"], row["images"], row["tflops_per_s"], strict=True)
        for rate, images, tflops in counted:
            flops = each.of(images, row["steps"] * expressions)
            assert tflops == pytest.approx(flops * rate / (row["steps"] * expressions) / 1e12)
        assert row["peak_tflops"] == 0.5
        assert row["peak_bytes"] > 2**27
    said = step_block([measured], {"step cpu": "picture.png"})
    assert "MFU of 0.5 TFLOP/s" in said
    assert "Image groups of 7, all else being equal: " in said
    # tiny.yaml by the formula: 24.1 MFLOP for an expression alone, 11.4 with six others.
    assert re.search(
        r"over 'int8, without padding' \(\S+ times as many images, [12]\.\d\d times the FLOPs\)", said
    )
    assert "over 'encoders in the loop, one expression a sample' (7.0 times as many images)" in said


def test_the_first_step_of_the_waterfall_is_far_behind_the_last(measured: results.Suite) -> None:
    first, *_, last = (row for row in measured.rows if "left_out" not in row)
    assert max(last["expressions_per_s"]) > 5 * max(first["expressions_per_s"])


def test_with_encoders_in_the_loop_groups_alone_are_worth_twice_the_speed(measured: results.Suite) -> None:
    one_a_sample, grouped = measured.rows[:2]
    assert grouped["name"] == "encoders in the loop, image groups"
    assert max(grouped["expressions_per_s"]) > 2 * max(one_a_sample["expressions_per_s"])
