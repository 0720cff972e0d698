from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from maris_fast.config import ModelSettings
from maris_fast.model.flops import training_flops
from maris_fast.train.cache_info import CacheInfo
from maris_fast.train.log_line import log_line
from maris_fast.train.ranks import Ranks
from maris_fast.train.throughput import Throughput, peak_by_name, peak_tflops
from tests.encoders.provenances import provenance
from tests.training.toy import GRID, TEXT, VISUAL, WORDS, toy_batch

RECORD: dict[str, Any] = {
    "step": 40,
    "epoch": 1,
    "loss": 0.48211,
    "focal": 0.0121,
    "dice": 0.47,
    "oIoU": 0.5124,
    "lr": 9.8e-5,
    "tau": 0.5,
    "gradient_norm": 0.834,
    "expressions_per_s": 2134.2,
    "images_per_s": 304.9,
    "data_wait_share": 0.012,
    "gb_per_s": 3.4,
    "tflops_per_s": 200.9,
    "memory_mb": 12600.0,
}


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


def test_speeds_are_what_was_counted_over_the_time_outside_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    throughput = Throughput(ModelSettings(), CacheInfo(VISUAL, TEXT, provenance(), "", 2, Path()))
    batch = toy_batch(0, expressions=8)
    for _ in throughput.timed([batch]):
        clock.now += 4
    with throughput.paused():
        clock.now += 1000
    throughput.count([batch, batch])
    rates = throughput.rates(Ranks(torch.device("cpu")), peak=1e-3)
    assert rates["expressions_per_s"] == 7 / 4  # of the whole step; one of the eight is padding
    assert rates["images_per_s"] == 16 / 4
    assert rates["gb_per_s"] == pytest.approx(3 * 16 * GRID * GRID * VISUAL * 2 / 4e9)
    flops = training_flops(ModelSettings(), VISUAL, TEXT, (GRID, GRID), WORDS).of(16, 16)
    assert rates["tflops_per_s"] == pytest.approx(flops / 4e12)
    assert rates["mfu"] == pytest.approx(flops / 4e9)
    throughput.restart()
    clock.now += 1
    assert throughput.rates(Ranks(torch.device("cpu")), None)["expressions_per_s"] == 0


def test_waiting_for_data_is_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    throughput = Throughput(ModelSettings(), CacheInfo(VISUAL, TEXT, provenance(), "", 1, Path()))

    def slow() -> Any:
        for _ in range(3):
            clock.now += 1
            yield None

    for _ in throughput.timed(slow()):
        clock.now += 3
    assert throughput.rates(Ranks(torch.device("cpu")), None)["data_wait_share"] == 3 / 12


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA L4", 121),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", None),
        ("NVIDIA A1000", None),
        ("Tesla T4", None),
    ],
)
def test_a_gpu_has_the_peak_of_its_name_or_none(name: str, peak: float | None) -> None:
    assert peak_by_name(name) == peak


def test_a_cpu_has_no_mfu_unless_its_peak_is_set() -> None:
    cpu = torch.device("cpu")
    assert peak_tflops(cpu) is None
    assert peak_tflops(cpu, 0.5) == 0.5
    assert "MFU" not in log_line("train", RECORD, 1000)


def test_the_line_of_a_step_reads_from_left_to_right() -> None:
    line = log_line("train", {**RECORD, "mfu": 0.203, "peak_tflops": 989.0}, 1000)
    assert line == (
        "step   40/1000  loss 0.4821 (focal 0.0121 dice 0.4700)  oIoU 0.512   2,134 expr/s    305 img/s  "
        "wait  1.2%    3.40 GB/s  MFU 20.3% of 989 TFLOP/s  12.3 GiB  lr 9.8e-05  grad 0.83  tau 0.50"
    )
    assert "dice 0.4700 no-target 0.0312)" in log_line("train", {**RECORD, "no_target": 0.03118}, 1000)
    slow = log_line("train", {**RECORD, "gb_per_s": 0.00123, "expressions_per_s": 9.0}, 1000)
    assert "1.23 MB/s" in slow
    assert slow.index("tau") == log_line("train", RECORD, 1000).index("tau")  # columns line up


def test_the_line_of_an_evaluation_leads_with_oiou() -> None:
    scores = {"step": 40, "expressions": 10834, "oIoU": 0.69604, "mIoU": 0.65, "Pr@50": 0.8, "Pr@60": 0.7}
    assert log_line("evaluation", {**scores, "kinds": {"size": {}}}, 1000) == (
        "eval   40/1000  oIoU 0.6960  mIoU 0.6500  Pr@50/60 0.800/0.700  10,834 expressions"
    )
