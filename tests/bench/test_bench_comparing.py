"""Comparison of new results with earlier ones: ratios within a run, and an exit status for workflows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from maris_fast.bench.comparing import compare_suites
from maris_fast.bench.results import ROOT, SUITES, Suite, load
from tests.command_line import maris_fast

RESULTS = ROOT / "bench" / "results"


def save_suite(folder: Path, suite: str, device: str = "NVIDIA H200", **ms_of: float) -> None:
    rows: list[dict[str, Any]] = [
        {"shape": "training", "part": "forward", "impl": impl, "ms": {"0.5": ms}}
        for impl, ms in ms_of.items()
    ]
    Suite(suite, "2026-01-01", None, False, {"device": device}, rows).save(folder)


def save(folder: Path, eager: float, ours: float, device: str = "NVIDIA H200") -> None:
    save_suite(folder, "mutual_attention", device, eager=eager, triton=ours)


def save_step(folder: Path, *rates: float, first: int = 0, size: str = "small") -> None:
    rows = [
        {"name": f"row {i}", "size": size, "expressions_per_s": [rate] * 3}
        for i, rate in enumerate(rates, start=first)
    ]
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


@pytest.mark.parametrize("changed", [{"size": "full"}, {"first": 1}])
def test_a_waterfall_of_another_size_or_first_row_is_not_compared(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    save_step(tmp_path / "old", 10, 20, 80)
    save_step(tmp_path / "new", 10, 10, 10, **changed)
    done = maris_fast("bench", "compare", str(tmp_path / "new"), str(tmp_path / "old"))
    assert done.exit_code == 0
    told = " ".join(done.output.split())
    assert "not compared: cpu/step.json: speeds are relative to the row" in told
    assert "before to the row 'row 0' at size 'small'" in told


def test_cross_attention_is_compared_with_its_projections_as_written(tmp_path: Path) -> None:
    save_suite(tmp_path / "old", "cross_attention", projected=4.0, folded=2.0)
    save_suite(tmp_path / "new", "cross_attention", projected=4.0, folded=3.0, triton=1.0)
    done = maris_fast("bench", "compare", str(tmp_path / "new"), str(tmp_path / "old"))
    assert done.exit_code == 1
    assert "1 of 1 cases are more than 15% slower" in done.output
    assert "there is no earlier speedup of training: forward triton" in " ".join(done.output.split())


def test_every_suite_has_a_plain_implementation() -> None:
    found = {file.stem: load(file) for name in SUITES for file in RESULTS.glob(f"*/{name}.json")}
    assert found.keys() == set(SUITES)
    for suite in found.values():
        one = compare_suites(suite, suite)
        assert one.changes
        assert not one.not_compared


def test_a_case_without_its_plain_implementation_is_named(tmp_path: Path) -> None:
    save_suite(tmp_path / "old", "cross_attention", projected=4.0, folded=2.0)
    save_suite(tmp_path / "new", "cross_attention", folded=2.0)
    done = maris_fast("bench", "compare", str(tmp_path / "new"), str(tmp_path / "old"))
    told = " ".join(done.output.split())
    assert "none of eager, reference, projected was measured of training: forward" in told
    assert "nothing was compared" in told


def test_another_devices_results_are_not_compared_with(tmp_path: Path) -> None:
    save(tmp_path / "old", 4.0, 1.0, "NVIDIA A100")
    save(tmp_path / "new", 4.0, 4.0)
    done = maris_fast("bench", "compare", str(tmp_path / "new"), str(tmp_path / "old"))
    assert done.exit_code == 0
    assert "no results of this device" in done.output


def test_a_folder_without_results_is_named(tmp_path: Path) -> None:
    done = maris_fast("bench", "compare", str(tmp_path), str(tmp_path))
    assert done.exit_code == 2
