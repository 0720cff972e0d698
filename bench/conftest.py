"""What every figure carries: where, with what and from which commit it was measured.

python -m pytest bench --benchmark-json=bench/results/<device>/<name>.json
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Callable
from typing import Any

import pytest
import torch


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


@pytest.fixture(scope="session")
def conditions() -> dict[str, Any]:
    """Device, versions, commit and settings of this run."""
    on_gpu = torch.cuda.is_available()
    try:
        from triton import __version__ as triton_version
    except ImportError:
        triton_version = "none"
    return {
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda if on_gpu else None,
        "triton": triton_version,
        "commit": _commit(),
        "threads": torch.get_num_threads(),
        "float32_matmul": torch.get_float32_matmul_precision(),
    }


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
