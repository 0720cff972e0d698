"""Errors of stored types, measured on features whose rounding is known, and the table of the results."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from typer import Typer
from typer.testing import CliRunner

from maris_fast.bench import stored_types
from maris_fast.bench.drawing.stored_types import stored_types_block
from maris_fast.bench.program import run_program
from maris_fast.bench.results import load
from maris_fast.bench.stored_types import ONE_SCALE, measured


def test_an_int8_feature_half_a_step_off_counts_as_that_error() -> None:
    """A channel of 127 and 0.5: the scale is 1, 0.5 rounds to 0 (even), RMS = sqrt((127^2 + 0.5^2) / 2)."""
    level = torch.tensor([[[127.0], [0.5]]])
    rows = {row["stored"]: row for row in measured([[level, 2 * level, 4 * level]])}
    of_half = 0.5 / (127**2 + 0.5**2) ** 0.5
    for name in ("int8", ONE_SCALE):
        assert rows[name]["rms_error_mean"] == pytest.approx([of_half] * 3, rel=1e-5)
    assert rows["bf16"]["rms_error_mean"] == [0, 0, 0]  # eight bits of mantissa hold both numbers
    assert [rows[name]["bytes_an_image"] for name in ("int8", "bf16", ONE_SCALE)] == [3 * (2 + 4), 12, 6]


def test_a_scale_of_the_whole_data_set_loses_more_on_an_image_of_small_features() -> None:
    level = torch.rand(4, 4, 3, generator=torch.Generator().manual_seed(0))
    rows = {row["stored"]: row for row in measured([[level] * 3, [100 * level] * 3])}
    own, shared = rows["int8"], rows[ONE_SCALE]
    assert own["rms_error_largest"] == pytest.approx(own["rms_error_mean"])
    assert max(own["rms_error_largest"]) < 0.01
    assert min(shared["rms_error_largest"]) > 0.3


def test_photographs_become_a_results_file_and_its_table(tmp_path: Path) -> None:
    app = Typer()
    app.command()(stored_types.main)
    options = ["--arch", "vit_tiny", "--image-size", "64", "--count", "2", "--out", str(tmp_path / "results")]
    empty = CliRunner().invoke(app, [str(tmp_path), *options])
    assert empty.exit_code == 2
    assert "no .jpg file below" in empty.output
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    for name in ("a", "b", "c", "d"):
        Image.fromarray(pixels).save(tmp_path / f"{name}.jpg")
    done = CliRunner().invoke(app, [str(tmp_path), *options])
    assert done.exit_code == 0, done.output
    suite = load(next((tmp_path / "results").glob("*/stored_types.json")))
    assert [row["stored"] for row in suite.rows] == ["int8", "fp8", "bf16", ONE_SCALE]
    lines = stored_types_block(suite).splitlines()
    sizes = [float(line.split("|")[2]) for line in lines[2:6]]
    assert sizes[2] == pytest.approx(2 * sizes[3], abs=0.01)
    assert "(2 photographs, vit_tiny at 64 px, weights: random; " in lines[-1]


def test_an_error_of_a_benchmark_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    asked = ["stored_types", str(tmp_path), "--weights", str(tmp_path / "sam.pth"), "--arch", "vit_tiny"]
    monkeypatch.setattr(sys, "argv", asked)
    with pytest.raises(SystemExit) as ended:
        run_program(stored_types.main)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: no weights at {tmp_path / 'sam.pth'}; ")
    assert "encoders.sam.weights" in line
