"""The folder of a run as training and evaluations leave it, and a stand-in for the Hub."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maris_fast.config.loading import dump_settings
from maris_fast.weights import load_weights, save_weights
from tests.cli.untrained import write_untrained
from tests.sharing.hub_server import Hub, hub_server
from tests.training.toy_run import toy_settings

SCORES = {
    "expressions": 12,
    "oIoU": 0.4567,
    "mIoU": 0.5,
    **{f"Pr@{level}": 0.25 for level in range(50, 100, 10)},
}
STEP = {"kind": "train", "step": 3, "total_steps": 3, "elapsed_s": 1.0}


def write_score_file(run: Path, split: str, weights: str, score: float, **more: str) -> None:
    written = {
        **SCORES,
        "oIoU": score,
        "intervals": {"oIoU": [score - 0.1, score + 0.1]},
        "protocols": {"maris": SCORES, "lavt": {**SCORES, "oIoU": 0.4321}},
    }
    content = {
        "data": {"name": "scenes", "split_by": "synthetic", "split": split},
        "weights": f"/home/someone/runs/one/{weights}",
        **more,
        "random_encoders": ["sam", "text"],
        "as written": written,
    }
    (run / f"scores-scenes-synthetic-{split}.json").write_text(json.dumps(content))


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    tensors, meta = load_weights(write_untrained(folder))
    (folder / "untrained.safetensors").unlink()
    save_weights(folder / "best.safetensors", tensors, meta.model_copy(update={"scores": SCORES}))
    settings = toy_settings(Path("/home/someone/runs/one"), **{"data.cache": "s3://secret/caches/scenes"})
    (folder / "settings.yaml").write_text(dump_settings(settings))
    environment = {
        "commit": "c0ffee",
        "python": "3.11.7",
        "packages": {"torch": "2.11.0", "triton": None},
        "data": {"name": "scenes", "split_by": "synthetic"},
    }
    (folder / "environment.json").write_text(json.dumps(environment))
    (folder / "metrics.jsonl").write_text(json.dumps(STEP) + "\n")
    write_score_file(folder, "testA", "best.safetensors", 0.3456)
    write_score_file(folder, "testB", "last.safetensors", 0.2345)
    (folder / "pictures").mkdir()
    for step in (1, 3):
        picture = Image.fromarray(np.full((4, 4, 3), step, np.uint8))
        picture.save(folder / "pictures" / f"step-{step:06d}.png")
    return folder


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.chdir(tmp_path)
    with hub_server(monkeypatch, tmp_path / "home") as hub:
        yield hub
