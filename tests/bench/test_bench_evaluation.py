"""The cost of an evaluation apart from its model: the command, and the table of its result."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from maris_fast.bench.drawing.plain_tables import evaluation_block
from maris_fast.bench.results import ROOT, load


@pytest.mark.process
def test_the_command_prints_what_it_keeps_and_more_protocols_cost_more(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "maris_fast.bench.evaluation", "--batches", "1", "--rounds", "2"]
    done = subprocess.run([*command, "--out", str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    suite = load(tmp_path / "cpu" / "evaluation.json")
    (row,) = suite.rows
    assert json.loads(done.stdout) == row
    assert row["expressions"] == 26
    assert row["ms_without_resize"] < row["ms_with_resize"] < row["ms_all_protocols"]
    drawn = evaluation_block(suite)
    assert f"| all protocols | {row['ms_all_protocols']:.2f} ms |" in drawn
    assert "least of 2 rounds" in drawn
