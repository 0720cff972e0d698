"""Comparison of new results with earlier ones: ratios within a run, and an exit status for workflows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maris_fast.bench.results import Suite
from tests.command_line import maris_fast


def save(folder: Path, eager: float, ours: float, device: str = "NVIDIA H200") -> None:
    rows: list[dict[str, Any]] = [
        {"shape": "training", "part": "forward", "impl": impl, "ms": {"0.5": ms}}
        for impl, ms in (("eager", eager), ("triton", ours))
    ]
    Suite("mutual_attention", "2026-01-01", None, False, {"device": device}, rows).save(folder)


def save_step(folder: Path, *rates: float) -> None:
    rows = [{"name": f"row {i}", "expressions_per_s": [rate] * 3} for i, rate in enumerate(rates)]
    Suite("step", "2026-01-01", None, False, {"device": "cpu"}, rows).save(folder)


@pytest.mark.parametrize(("ours", "status"), [(1.0, 0), (1.1, 0), (1.3, 1)])
def test_a_case_that_lost_ground_to_the_plain_way_of_its_run_fails(
    tmp_path: Path, ours: float, status: int
) -> None:
    save(tmp_path / "old", 4.0, 1.0)
    # The whole machine is half as fast this time; that alone does not count as a change.
    save(tmp_path / "new", 8.0, 2 * ours)
    done = maris_fast("bench", "compare", str(tmp_path / "new"), str(tmp_path / "old"))
    assert done.exit_code == status, done.output
    assert "4.00" in done.output


def test_a_waterfalls_rows_are_compared_by_their_ratio_to_the_first(tmp_path: Path) -> None:
    save_step(tmp_path / "old", 10, 20, 80)
    save_step(tmp_path / "new", 5, 10, 20)
    done = maris_fast("bench", "compare", str(tmp_path / "new"), str(tmp_path / "old"))
    assert done.exit_code == 1
    assert "1 of 3 cases are more than 15% slower" in done.output


def test_another_devices_results_are_not_compared_with(tmp_path: Path) -> None:
    save(tmp_path / "old", 4.0, 1.0, "NVIDIA A100")
    save(tmp_path / "new", 4.0, 4.0)
    done = maris_fast("bench", "compare", str(tmp_path / "new"), str(tmp_path / "old"))
    assert done.exit_code == 0
    assert "no results of this device" in done.output


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    done = maris_fast("bench", "compare", str(tmp_path), str(tmp_path))
    assert done.exit_code == 2
