"""What was measured on a device, and what ``impl="auto"`` makes of it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from maris_fast.kernels import multihead_attention
from maris_fast.kernels.multihead_attention import IMPLEMENTATIONS, chosen_impl, measured, measuring
from maris_fast.kernels.multihead_attention.parity import Shape

CPU = torch.device("cpu")
SHAPES = [Shape(2, 9, 5, 2, 32, masked=True), Shape(1, 9, 9, 2, 32, masked=False)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where ``auto`` looks, empty."""
    monkeypatch.setattr(measured, "FOLDER", tmp_path)
    measured._rows.cache_clear()
    yield tmp_path
    measured._rows.cache_clear()


class Clock:
    """Tells times for the implementations that were really run, in the order of IMPLEMENTATIONS."""

    def __init__(self, *ms: float) -> None:
        self.ms = list(ms) * 10

    def __call__(self, function: Callable[[], object]) -> float:
        function()
        return self.ms.pop(0)


def row(masked: bool = True, L_q: int = 9, **ms: float) -> dict[str, Any]:
    sizes = {"head_dim": 32, "dtype": "float32", "masked": masked, "L_q": L_q, "L_k": 5}
    impls = {impl.replace("_", "-"): {"ms": time, "ratio": 1.0} for impl, time in ms.items()}
    return {**sizes, "impls": impls}


def write(folder: Path, *rows: dict[str, Any]) -> None:
    (folder / "cpu.json").write_text(json.dumps({"rows": rows}))


def test_auto_takes_what_was_measured_fastest_for_this_kind_of_call(folder: Path) -> None:
    # Run on a CPU are sdpa, sdpa-flash and the reference.
    content = measuring.measure(CPU, [torch.float32], SHAPES, Clock(3.0, 1.0, 0.5, 1.0, 3.0, 0.5))
    measuring.save(content, folder / "cpu.json")
    assert chosen_impl(CPU, torch.float32, 32, True) == "sdpa-flash"
    assert chosen_impl(CPU, torch.float32, 32, False) == "sdpa"
    # Not measured: another head dim, another dtype.
    assert chosen_impl(CPU, torch.float32, 64, True) == "sdpa"
    assert chosen_impl(CPU, torch.float16, 32, True) == "sdpa"


def test_the_choice_reaches_the_call(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, row(sdpa=3.0, sdpa_flash=1.0))
    called = []
    flash = IMPLEMENTATIONS["sdpa-flash"]
    monkeypatch.setitem(IMPLEMENTATIONS, "sdpa-flash", lambda *given: called.append(1) or flash(*given))
    q, key_mask = torch.randn(2, 5, 2, 32), torch.ones(2, 5, dtype=torch.bool)
    multihead_attention(q, q, q, key_mask)
    assert called == [1]
    multihead_attention(q, q, q)
    assert called == [1]


@pytest.mark.parametrize(
    ("rows", "chosen"),
    [
        ([row(sdpa=1.04, sdpa_flash=1.0)], "sdpa"),  # a tie
        ([row(sdpa=1.06, sdpa_flash=1.0)], "sdpa-flash"),
        ([row(sdpa=2.0, reference=1.0)], "sdpa"),
        ([row(reference=1.0)], "sdpa"),
        ([row(sdpa_cudnn=1.0, sdpa=3.0, sdpa_flash=2.0)], "sdpa-flash"),  # measured elsewhere, refused here
        ([row(sdpa_flash=1.0, sdpa=2.0), row(L_q=99, sdpa_flash=9.0, sdpa=5.0)], "sdpa"),  # over all lengths
        ([row(sdpa_flash=1.0, sdpa=2.0), row(L_q=99, sdpa=5.0)], "sdpa"),  # not right at all lengths
        ([row(masked=False, sdpa_flash=1.0, sdpa=2.0)], "sdpa"),
        ([], "sdpa"),
    ],
)
def test_how_auto_reads_the_figures(folder: Path, rows: list[dict[str, Any]], chosen: str) -> None:
    write(folder, *rows)
    assert chosen_impl(CPU, torch.float32, 32, True) == chosen


def test_the_file_is_read_once(folder: Path) -> None:
    write(folder, row(sdpa=3.0, sdpa_flash=1.0))
    chosen_impl(CPU, torch.float32, 32, True)
    (folder / "cpu.json").write_text("no longer JSON")
    assert chosen_impl(CPU, torch.float32, 32, True) == "sdpa-flash"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cpu.json is no JSON"),
        ("[]", "has no list of rows; measure again"),
        ({"rows": [7]}, "row 0 is 7; needed are head_dim"),
        ({"rows": [row(sdpa=1.0), {**row(sdpa=1.0), "head_dim": "32"}]}, r"row 1 is .* head_dim \(int\)"),
        ({"rows": [{**row(sdpa=1.0), "masked": 1}]}, r"masked \(bool\)"),
        ({"rows": [{**row(), "impls": None}]}, "row 0 has no impls"),
        ({"rows": [row(flash=1.0)]}, "row 0 names 'flash'; known are xformers, sdpa, "),
        ({"rows": [row(sdpa=-1.0)]}, "of sdpa; needed are ms, more than 0, or a reason"),
        ({"rows": [row(sdpa=float("nan"))]}, "needed are ms, more than 0"),
        ({"rows": [{**row(), "impls": {"sdpa": {}}}]}, "needed are ms, more than 0, or a reason"),
    ],
)
def test_a_file_that_cannot_be_used_says_what_is_wrong(folder: Path, content: Any, message: str) -> None:
    (folder / "cpu.json").write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message):
        chosen_impl(CPU, torch.float32, 32, True)


def test_a_gpus_file_has_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3 (x)")
    assert measured.file_name(torch.device("cuda")) == "nvidia-h100-80gb-hbm3-x.json"
    assert measured.file_name(CPU) == "cpu.json"


def test_what_is_wrong_refused_or_fails_gets_its_reason_and_no_figure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory, tried 8 GiB")

    monkeypatch.setitem(
        IMPLEMENTATIONS, "sdpa", lambda q, k, v, m: IMPLEMENTATIONS["reference"](q, k, v, None)
    )
    monkeypatch.setitem(IMPLEMENTATIONS, "sdpa-flash", fails)
    results = measuring.measure_row(CPU, torch.float32, SHAPES[0], Clock(2.0))["impls"]
    assert results["reference"] == {"ms": 2.0, "ratio": 1.0}
    assert results["sdpa"]["reason"].startswith("wrong: out: error ")
    assert results["sdpa-flash"] == {"reason": "OutOfMemoryError: out of memory, tried 8 GiB"}
    assert "no attention for cpu tensors" in results["xformers"]["reason"]
    assert results["sdpa-cudnn"]["reason"].startswith("sdpa-cudnn refuses torch.float32 on cpu, head dim 32")


def test_a_file_that_could_not_be_read_is_never_left_behind(folder: Path) -> None:
    write(folder, row(sdpa=1.0))
    before = (folder / "cpu.json").read_text()
    with pytest.raises(ValueError, match="needed are ms"):
        measuring.save({"rows": [row(sdpa=0.0)]}, folder / "cpu.json")
    assert (folder / "cpu.json").read_text() == before
    assert [path.name for path in folder.iterdir()] == ["cpu.json"]


def test_the_measuring_command_writes_a_file_that_says_where_and_with_what(tmp_path: Path) -> None:
    out = tmp_path / "new" / "here.json"
    command = [sys.executable, "-m", "maris_fast.cli", "bench", "attention", "--out", out]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.strip().endswith(f"wrote {out}")
    assert "9 of 9: " in done.stdout
    content = json.loads(out.read_text())
    assert content["device"] == "cpu"
    assert content["versions"]["torch"] == torch.__version__.split("+")[0]
    assert {content_row["head_dim"] for content_row in content["rows"]} == {32, 64, 128}
    rows = measured.read_rows(out)
    assert all({"sdpa", "sdpa-flash", "reference"} == set(one.ms) for one in rows)
    assert [path.name for path in out.parent.iterdir()] == ["here.json"]
