"""Real COCO images with real RefCOCO and G-Ref sentences, from their annotations to a mask."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from maris_fast.cli import app
from maris_fast.cli.launching import launch
from maris_fast.cli.scores import scoring_command
from maris_fast.data_shards.records import ImportedDataset
from maris_fast.train import __file__ as train_package
from tests.end_to_end.refmini_all import SENTENCES, write_refmini_all
from tests.training.processes import NOTHING_TO_SEE

CONFIGS = Path(train_package).parent / "configs"

# SAM's ViT-B with random weights, at an image size that a CPU encodes in seconds.
ENCODERS = (
    "encoders.sam.arch=vit_b",
    "encoders.sam.weights=random",
    "encoders.sam.image_size=192",
    "encoders.text.arch=tiny",
    "encoders.text.weights=random",
    "batch_size=1",
)


def maris_fast(*arguments: object) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.process
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_refmini_is_imported_cached_learned_by_heart_and_predicted(refmini: Path, tmp_path: Path) -> None:
    write_refmini_all(refmini, tmp_path / "root")
    dataset, cache, run = (tmp_path / name for name in ("dataset", "cache", "run"))
    shown = maris_fast("import", tmp_path / "root", "refmini", "--split-by", "all", "--out", dataset)
    assert str(SENTENCES) in shown
    shown = maris_fast("cache", dataset, cache, *ENCODERS)
    assert f"17 images, {SENTENCES} expressions" in shown

    entry = str(CONFIGS.parent / "main.py")
    overfit = ("--config", str(CONFIGS / "overfit.yaml"), f"data.cache={cache}", f"run.folder={run}")
    assert launch(1, entry, *overfit, "schedule.epochs=100", "run.evaluate_every=50", *NOTHING_TO_SEE) == 0
    weights = run / "best.safetensors"
    assert launch(1, *scoring_command(weights, cache, split="train", out=tmp_path / "scores.json")) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())["as written"]
    assert scores["expressions"] == SENTENCES
    assert scores["oIoU"] >= 0.8

    record = next(iter(ImportedDataset(dataset).records("train")))
    expression = record.expressions[0]
    image = Path(ImportedDataset(dataset).info.image_root) / record.image
    maris_fast("predict", image, expression.text, "--weights", weights, "--out", tmp_path / "masks")
    mask = np.asarray(Image.open(tmp_path / "masks" / f"{image.stem}-1-mask.png")) > 0
    truth = record.targets[expression.target].mask.decode()
    assert (mask & truth).sum() / (mask | truth).sum() > 0.5
