"""Training needs little of its machine: no encoder's library, no name of its user."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.faults import NAMELESS, require_nameless_user
from tests.training.processes import ROOT, run
from tests.training.tiny_cache import write_tiny_cache

ENCODERS = ("segment_anything", "torchvision", "open_clip", "timm", "transformers")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_cache(tmp_path_factory.mktemp("bare"))


def training(cache: Path, folder: Path) -> tuple[str | Path, ...]:
    return (
        *(sys.executable, ROOT / "train" / "main.py", "--config", ROOT / "train" / "configs" / "tiny.yaml"),
        *(f"data.cache={cache}", f"run.folder={folder}", "model.channels=16", "schedule.epochs=1"),
    )


def test_a_run_needs_no_package_of_an_encoder(cache: Path, tmp_path: Path) -> None:
    for name in ENCODERS:
        (tmp_path / f"{name}.py").write_text(f"raise ModuleNotFoundError('no {name} here')")
    done = run(*training(cache, tmp_path / "run"), packages=[tmp_path])
    assert done.returncode == 0, done.stderr[-4000:]
    assert "finished 4 steps" in done.stdout
    assert "WARNING" not in done.stderr
    assert (tmp_path / "run" / "report.html").is_file()


def test_a_user_without_a_name_trains(cache: Path, tmp_path: Path) -> None:
    require_nameless_user()
    done = run(*NAMELESS, "-u", "HOME", *training(cache, tmp_path / "run"))
    assert done.returncode == 0, done.stderr[-4000:]
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [one["step"] for one in records if one["kind"] == "train"] == [1, 2, 3, 4]


def test_a_user_without_a_name_has_the_encoders(tmp_path: Path) -> None:
    require_nameless_user()
    done = run(*NAMELESS, sys.executable, "-c", "from maris_fast.encoders import SamEncoder, TextEncoder")
    assert (done.returncode, done.stderr) == (0, "")
