"""What every figure is stored with: where, with what and under which conditions it was measured.

``maris-fast bench run`` runs the suites of this folder and saves their rows in bench/results/.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maris_fast.bench.conditions import gpu_conditions
from maris_fast.bench.measuring import (
    bandwidth,
    copy_gbps,
    device_row,
    host_us,
    load_told,
    wall_ms,
)
from maris_fast.bench.suite_runs import ROWS_VARIABLE
from maris_fast.kernels.cuda_graph import own_stream
from maris_fast.train.environment import environment
from maris_fast.train.ranks import Ranks

ON_GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if ON_GPU else "cpu")
ROUNDS = 40


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    """Record device, versions and commit once per run, instead of pytest-benchmark's own information."""
    machine_info.clear()
    machine_info.update(environment(Ranks(DEVICE)), float32_matmul=torch.get_float32_matmul_precision())


@pytest.fixture(scope="session")
def copy_bandwidth() -> float:
    """GB/s of a copy on the device, measured in the same run."""
    return copy_gbps(DEVICE)


@pytest.fixture(autouse=True)
def _own_stream() -> Iterator[None]:
    with own_stream(DEVICE):
        yield


@pytest.fixture
def measure(benchmark: Any, copy_bandwidth: float) -> Callable[..., None]:
    """Time a function, waiting for the device, and write ``told`` and the measurements into the row.

    Given ``must_move`` (bytes), the row has GB/s and their share of the copy's. ``ms`` are quantiles: on a
    GPU by its own clock, on a CPU by the wall clock. ``host_us`` is the host's part of a call.
    """

    def run(function: Callable[[], object], **told: Any) -> None:
        def waited() -> None:
            function()
            if ON_GPU:
                torch.cuda.synchronize()

        row = benchmark.extra_info
        row.update(told)
        waited()
        with gpu_conditions(DEVICE) as of_gpu:
            if ON_GPU:
                row.update(device_row(function, copy_bandwidth, told), host_us=host_us(function, DEVICE))
            benchmark.pedantic(waited, rounds=ROUNDS, warmup_rounds=3)
        row.update(load_told(), **of_gpu)
        if not ON_GPU:
            row.update(timer="wall", ms=wall_ms(benchmark.stats.stats.data))
            row.update(bandwidth(row, copy_bandwidth))
        keep_now(row)

    return run


def keep_now(row: dict[str, Any]) -> None:
    """Append a row to the file named by ``maris-fast bench run``: a later case may end the process."""
    if ROWS_VARIABLE in os.environ:
        with Path(os.environ[ROWS_VARIABLE]).open("a") as file:
            file.write(json.dumps(row) + "\n")


@pytest.fixture
def measure_part(measure: Callable[..., None]) -> Callable[..., None]:
    """Time a part of an operation (forward, backward or both) on given inputs and a given output gradient."""

    def run(
        part: str, forward: Callable[[], Tensor], inputs: Sequence[Tensor], gradient: Tensor, **told: Any
    ) -> None:
        if part == "forward":
            with torch.no_grad():
                measure(forward, part=part, **told)
        elif part == "backward":
            out = forward()
            measure(lambda: torch.autograd.grad(out, inputs, gradient, retain_graph=True), part=part, **told)
        else:
            measure(lambda: torch.autograd.grad(forward(), inputs, gradient), part=part, **told)

    return run
