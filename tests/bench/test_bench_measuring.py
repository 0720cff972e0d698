"""What the benchmarks measure, and the correctness check before each figure."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from maris_fast.bench import results
from maris_fast.bench.drawing.suites import suite_table
from maris_fast.bench.measuring import copy_gbps, host_us, load_told, saved_bytes, wall_ms
from maris_fast.bench.mutual_attention_columns import (
    A_Z_L,
    MARGIN,
    Column,
    Shape,
    build,
    columns,
    differentiated,
    failures,
    gradients,
    inputs,
)
from maris_fast.bench.suite_runs import kept

CPU = torch.device("cpu")
SHAPE = Shape(images=2, expressions=2, L_v=64, L_t=7, C=32)
EAGER = Column("eager", torch.float32, torch.float32)


def test_saved_bytes_counts_each_storage_once_and_inputs_apart() -> None:
    x = torch.randn(100, requires_grad=True)

    def forward() -> torch.Tensor:
        y = x.exp()  # keeps y
        return y * y[:50].repeat(2) * x  # keeps y again, its repetition, their product, and x

    assert saved_bytes(forward, [x]) == (3 * 400, 4 * 400)
    assert saved_bytes(lambda: x + 1, [x]) == (0, 0)


def test_quantiles_are_in_ms_and_a_copy_has_a_bandwidth() -> None:
    assert wall_ms([0.001 * n for n in range(1, 12)]) == {
        "0.1": 2.0,
        "0.25": 3.5,
        "0.5": 6.0,
        "0.75": 8.5,
        "0.9": 10.0,
    }
    assert 0.1 < copy_gbps(CPU) < 10_000


@pytest.mark.parametrize(("load", "shared"), [(1.2, False), (1.7, True)])
def test_a_machine_is_shared_from_half_a_process_beyond_our_threads(
    load: float, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert load_told() == {"load_average": load, "machine_shared": shared}


def test_no_pair_is_near_the_threshold_and_the_gate_drops_half() -> None:
    (z_v, z_l, *_), _ = inputs(SHAPE, CPU, torch.float64)
    S = z_v.repeat_interleave(2, dim=0) @ z_l.transpose(1, 2)
    assert S.abs().min() >= MARGIN
    assert 0.3 < (S >= 0).double().mean() < 0.7
    narrow = inputs(SHAPE, CPU, torch.bfloat16)[0][0]
    assert torch.equal(narrow.double(), z_v)


@pytest.mark.parametrize("name", ["eager", "eager-autocast"])
def test_a_right_column_passes_and_a_wrong_one_is_refused(name: str) -> None:
    column = columns(CPU)[name]
    leaves, offsets = inputs(SHAPE, CPU, column.leaves)
    got = differentiated(build(column, SHAPE, offsets), leaves)
    assert failures(got, column, SHAPE, CPU) == []
    for place in range(len(got)):
        wrong = [t.clone() for t in got]
        # Plain bf16 is off by up to 1% in a gradient that sums over all tokens.
        wrong[place].view(-1)[0] += 0.5 * got[place].abs().max()
        (said,) = failures(wrong, column, SHAPE, CPU)
        assert said.startswith(f"tensor {place} is off by")
        wrong[place].view(-1)[0] = float("nan")
        assert len(failures(wrong, column, SHAPE, CPU)) == 1


class Drawn(TorchDispatchMode):
    """Counts operators that draw random numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), named: Any = None) -> Any:
        if any(word in str(function) for word in ("rand", "normal_", "uniform")):
            self.names.append(str(function))
        return function(*arguments, **(named or {}))


@pytest.mark.parametrize("part", ["forward", "backward", "both"])
def test_what_is_timed_draws_no_random_numbers(part: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from maris_fast.bench.suites import test_mutual_attention as suite

    timed: list[Callable[[], object]] = []
    monkeypatch.setattr(suite, "SHAPES", {"here": SHAPE})
    monkeypatch.setattr(suite, "DEVICE", CPU)
    suite.test_mutual_attention("here", EAGER, part, lambda function, **told: timed.append(function))
    (function,) = timed
    with torch.set_grad_enabled(part != "forward"), Drawn() as drawn:
        function()
        assert drawn.names == []
        gradients([torch.zeros(2)])
    assert drawn.names == ["aten.randn.generator"]


def test_host_time_is_reported_per_call() -> None:
    assert 900 < host_us(lambda: time.sleep(0.001), CPU, calls=5) < 50_000


def test_host_time_is_that_of_calls_to_an_idle_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    queue: list[int] = []
    found: list[int] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: queue.clear())

    def call() -> None:
        found.append(len(queue))
        queue.extend(range(55))

    host_us(call, torch.device("cuda"), calls=20)
    assert found == [0] * 21
    assert queue == []


def test_half_the_forward_is_held_to_its_own_truth() -> None:
    half = Column("flex-attention", torch.float32, torch.float32, ("forward",), A_Z_L)
    leaves, offsets = inputs(SHAPE, CPU, torch.float32)
    z_v, z_l = leaves[:2]
    S = z_v.repeat_interleave(2, dim=0) @ z_l.transpose(1, 2)
    A = torch.softmax(S.masked_fill(S < 0, -torch.inf), 2).nan_to_num(0)
    assert failures([A @ z_l], half, SHAPE, CPU) == []
    assert failures([A @ z_l + z_v.repeat_interleave(2, dim=0)], half, SHAPE, CPU)
    f_lav, _ = build(EAGER, SHAPE, offsets)(leaves)
    assert failures([f_lav], half, SHAPE, CPU)
    assert [g.shape for g in gradients((f_lav,))] == [f_lav.shape]


def test_a_case_that_pytest_benchmark_alone_timed_has_a_row_and_a_place_in_the_table() -> None:
    stats = {"rounds": 3, "q1": 0.001, "median": 0.002, "q3": 0.003}
    case = {"name": "test_vit_b[sdpa]", "params": {"impl": "sdpa"}, "stats": stats}
    environment = {"commit": None, "device": "cpu"}
    suite = kept(
        "sam_attention",
        {"machine_info": environment, "benchmarks": [{**case, "extra_info": {"impl": "sdpa"}}]},
    )
    assert suite.rows == [
        {
            "shape": "vit_b",
            "timer": "wall",
            "ms": {"0.25": 1.0, "0.5": 2.0, "0.75": 3.0},
            "impl": "sdpa",
            "wall_rounds": 3,
        }
    ]
    assert (suite.commit, suite.dirty, suite.environment) == (None, False, {"device": "cpu"})
    assert suite_table(suite) == ["| sam_attention, cpu, ms | sdpa |", "|---|---|", "| vit_b | 2 |"]


def test_results_that_were_written_do_not_make_the_code_dirty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(results, "ROOT", tmp_path)
    (tmp_path / "bench" / "results").mkdir(parents=True)
    files = [tmp_path / "bench" / "results" / "cpu.json", tmp_path / "code.py"]
    for file in files:
        file.write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e@e"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    told = []
    for file in files:
        file.write_text("2")
        told.append(results.commit_and_dirty({"commit": "abc-dirty"}))
    assert told == [("abc", False), ("abc", True)]
    assert results.commit_and_dirty({"commit": None}) == (None, False)
