"""Measures every implementation on the device at hand; ``impl="auto"`` then takes the fastest.

An implementation is proven at each shape before it is timed there. One that can't run or is wrong gets its
reason in the file instead of a figure.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from maris_fast.kernels.multihead_attention import measured
from maris_fast.kernels.multihead_attention.implementations import IMPLEMENTATIONS, Named, why_unsupported
from maris_fast.kernels.multihead_attention.parity import Shape, draw, failures, provable, run

Timer = Callable[[Callable[[], object]], float]
HEAD_DIMS = (32, 64, 128)


def shapes(device: torch.device) -> list[Shape]:
    """The mask decoder's, at 256 channels: visual tokens to themselves, words to words, tokens to words."""
    B, L_v, L_t = (32, 4096, 33) if device.type == "cuda" else (2, 256, 17)
    return [
        Shape(B // 4 or 1 if L_q == L_k == L_v else B, L_q, L_k, 256 // head_dim, head_dim, masked)
        for head_dim in HEAD_DIMS
        for L_q, L_k, masked in ((L_v, L_v, False), (L_t, L_t, True), (L_v, L_t, True))
    ]


def dtypes(device: torch.device) -> list[torch.dtype]:
    """Those that a model runs in there."""
    return [torch.bfloat16, torch.float16, torch.float32] if device.type == "cuda" else [torch.float32]


def default_timer(device: torch.device) -> Timer:
    """Median milliseconds: on a GPU of its own clock, with a cold L2 cache before each run."""
    if device.type == "cuda":
        from triton.testing import do_bench

        return lambda function: float(do_bench(function, return_mode="median"))
    from torch.utils.benchmark import Timer as WallClock

    def run(function: Callable[[], object]) -> float:
        timer = WallClock("function()", globals={"function": function}, num_threads=torch.get_num_threads())
        return float(1e3 * timer.blocked_autorange(min_run_time=0.1).median)

    return run


def measure(
    device: torch.device,
    wanted_dtypes: Sequence[torch.dtype],
    wanted: Sequence[Shape],
    timer: Timer,
    commit: str | None = None,
    told: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """The device's file: with what and when it was measured, and a row for each dtype and shape.

    ``told`` hears each row when it is done.
    """
    rows = []
    for dtype in wanted_dtypes:
        for shape in wanted:
            row = measure_row(device, dtype, shape, timer)
            rows.append(row)
            told(f"{len(rows)} of {len(wanted_dtypes) * len(wanted)}: {json.dumps(row)}")
    cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if cuda else device.type,
        "processor": _processor(),
        "threads": torch.get_num_threads(),
        "versions": {
            **{name: _version(name) for name in ("torch", "xformers", "triton")},
            "cuda": torch.version.cuda if cuda else None,
            "cudnn": torch.backends.cudnn.version() if cuda else None,
        },
        "commit": commit,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "measured": "forward + backward, median ms; ratio is to the fastest of the row",
        "rows": rows,
    }


def measure_row(device: torch.device, dtype: torch.dtype, shape: Shape, timer: Timer) -> dict[str, Any]:
    """One shape: its sizes, and milliseconds or a reason for each implementation."""
    results = {impl: _milliseconds(impl, device, dtype, shape, timer) for impl in IMPLEMENTATIONS}
    figures = [result for result in results.values() if isinstance(result, float)]
    return {
        **vars(shape),
        "dtype": str(dtype).removeprefix("torch."),
        "impls": {
            impl: {"reason": result}
            if isinstance(result, str)
            else {"ms": round(result, 5), "ratio": round(result / min(figures), 3)}
            for impl, result in results.items()
        },
    }


def _milliseconds(
    impl: Named, device: torch.device, dtype: torch.dtype, shape: Shape, timer: Timer
) -> float | str:
    reason = why_unsupported(impl, device, dtype, shape.head_dim, shape.masked)
    if reason is not None:
        return reason
    # Whatever a kernel or its launch throws, the others can still be measured.
    try:
        wrong = failures(impl, provable(shape), device, dtype)
        if wrong:
            return f"wrong: {'; '.join(wrong)}"
        drawn = draw(shape, device, dtype)
        return timer(lambda: run(impl, drawn))
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0][:200]


def save(content: dict[str, Any], file: Path) -> None:
    """Writes the file whole or not at all, a row a line.

    Raises:
        ValueError: the content is none that ``measured`` would read; nothing is written over.
    """
    rows = ",\n".join("  " + json.dumps(row) for row in content["rows"])
    lines = [f" {json.dumps(name)}: {json.dumps(value)}" for name, value in content.items() if name != "rows"]
    scratch = file.with_name(f".{file.name}.part")
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        scratch.write_text("{\n" + ",\n".join([*lines, f' "rows": [\n{rows}\n ]']) + "\n}\n")
        measured.read_rows(scratch)
        scratch.replace(file)
    finally:
        scratch.unlink(missing_ok=True)


def _processor() -> str:
    """The CPU's name, where the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
