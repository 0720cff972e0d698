"""What every figure carries: where, with what and from which commit it was measured.

python -m pytest bench --benchmark-json=bench/results/<device>/<name>.json
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from maris_fast.train.environment import environment
from maris_fast.train.ranks import Ranks


@pytest.fixture(scope="session")
def conditions() -> dict[str, Any]:
    """Device, versions, commit and settings of this run."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return {**environment(Ranks(device)), "float32_matmul": torch.get_float32_matmul_precision()}


@pytest.fixture
def measure(benchmark: Any, conditions: dict[str, Any]) -> Callable[..., None]:
    """Times a function, waiting for the device, and writes the conditions beside the figure."""
    on_gpu = torch.cuda.is_available()

    def run(function: Callable[[], object], **told: Any) -> None:
        def waited() -> None:
            function()
            if on_gpu:
                torch.cuda.synchronize()

        benchmark.extra_info.update(conditions, **told)
        if on_gpu:
            from triton.testing import do_bench

            torch.cuda.reset_peak_memory_stats()
            held = torch.cuda.memory_allocated()
            waited()
            benchmark.extra_info["peak_bytes_over_inputs"] = torch.cuda.max_memory_allocated() - held
            quantiles = [0.1, 0.5, 0.9]
            measured = do_bench(function, quantiles=quantiles)
            benchmark.extra_info["device_ms"] = dict(zip(map(str, quantiles), measured, strict=True))
        benchmark.pedantic(waited, rounds=20 if on_gpu else 5, warmup_rounds=3)

    return run
