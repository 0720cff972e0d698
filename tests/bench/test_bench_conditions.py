"""The GPU's conditions that rows record, from a program in nvidia-smi's place."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from maris_fast.bench import conditions, first_steps, measuring
from maris_fast.bench.conditions import gpu_conditions
from maris_fast.bench.drawing.gpu_caption import gpu_told
from maris_fast.bench.results import Suite
from maris_fast.train import environment as of_runs
from maris_fast.train.environment import environment
from maris_fast.train.ranks import Ranks

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
NAMES = {"power_limit_w", "sm_mhz", "celsius", "used_mib", "other_gpu_processes", "other_gpu_mib"}
SMI = """#!/bin/sh
echo "$*" >>{folder}/asked
case "$1" in
--query-gpu=*) cat {folder}/state; echo "700.00, 1980, 61, 900" >{folder}/state ;;
--query-compute-apps=*) cat {folder}/processes ;;
esac
"""


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with nvidia-smi and its answers, of which the state changes; ``asked`` has a line per call."""
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="0a1b-2c3d"))
    conditions._smi.cache_clear()
    (tmp_path / "nvidia-smi").write_text(SMI.format(folder=tmp_path))
    (tmp_path / "nvidia-smi").chmod(0o755)
    (tmp_path / "state").write_text("700.00, 345, 33, 800\n")
    (tmp_path / "processes").write_text(f"{os.getpid()}, 560\n")
    return tmp_path


def measured(device: torch.device = CUDA) -> dict[str, Any]:
    with gpu_conditions(device) as found:
        pass
    return found


def test_a_row_has_the_state_of_its_own_gpu_before_and_after(smi: Path) -> None:
    with gpu_conditions(CUDA) as found:
        (smi / "processes").write_text(f"{os.getpid()}, 560\n7, 1000\n8, [N/A]\n")
    assert found == {
        "power_limit_w": [700, 700],
        "sm_mhz": [345, 1980],
        "celsius": [33, 61],
        "used_mib": [800, 900],
        "other_gpu_processes": [0, 2],
        "other_gpu_mib": [0, 1000],
    }
    asked = (smi / "asked").read_text().splitlines()
    assert len(asked) == 4
    assert all(line.endswith(" --id=GPU-0a1b-2c3d") for line in asked)


def test_rows_of_the_first_minutes_have_them(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measuring, "device_row", lambda function, copy, told: {**told, "timer": "graph"})
    row = first_steps._row(lambda: None, {"impl": "triton"}, first_steps.FULL, 1.0)
    assert row.keys() == {"impl", "timer", *NAMES}


def test_where_this_process_is_not_listed_others_are_unknown(smi: Path) -> None:
    (smi / "processes").write_text("1, 560\n")
    assert measured()["other_gpu_processes"] == [None, None]
    assert measured()["other_gpu_mib"] == [None, None]


def test_what_a_gpu_does_not_report_is_missing(smi: Path) -> None:
    (smi / "state").write_text("[N/A], 345, 33, [Not Supported]\n")
    found = measured()
    assert (found["power_limit_w"][0], found["used_mib"][0], found["sm_mhz"][0]) == (None, None, 345)


@pytest.mark.parametrize("ends", ["exec sleep 60", "exit 9"])
def test_an_nvidia_smi_that_hangs_or_fails_is_asked_once_and_all_is_missing(
    smi: Path, ends: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conditions, "SECONDS", 0.5)
    (smi / "nvidia-smi").write_text(f"#!/bin/sh\necho >>{smi}/asked\n{ends}\n")
    for _ in range(2):
        assert measured() == {name: [None, None] for name in NAMES}
    assert (smi / "asked").read_text() == "\n"


def test_without_nvidia_smi_all_is_missing(smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(smi / "nowhere"))
    assert measured() == {name: [None, None] for name in NAMES}


def test_on_a_cpu_nothing_is_asked(smi: Path) -> None:
    assert measured(CPU) == {}
    assert not (smi / "asked").exists()


def test_the_environment_names_the_driver_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA H200")
    monkeypatch.setattr(of_runs, "machine", lambda device: {"driver": "580.65.06"})
    assert environment(Ranks(CUDA))["driver"] == "580.65.06"
    assert environment(Ranks(CPU))["driver"] is None


def test_a_caption_states_clocks_the_limit_and_others() -> None:
    row = {"sm_mhz": [1755, 1980], "power_limit_w": [700, 700], "other_gpu_processes": [0, 1]}
    unknown = {"sm_mhz": [None, None], "power_limit_w": [None, None], "other_gpu_processes": [None, None]}
    suite = Suite("step", "2026-01-01", None, False, {"driver": "580.65.06"}, [row, unknown, {}])
    assert gpu_told(suite) == [
        "driver 580.65.06",
        "SM clock 1,755 to 1,980 MHz",
        "power limit 700 W",
        "other processes used the GPU during 1 of 3 rows",
    ]
    assert gpu_told(Suite("step", "2026-01-01", None, False, {}, [{"ms": {}}])) == []
