"""The whole model, trained on the kernels, follows the loss curve it has on the reference."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from maris_fast.data_shards.cache import write_cache
from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.synthetic import DATASET, SPLIT_BY, generate_scenes
from tests.data.cache_dataset import tiny_settings
from tests.training.processes import MAIN, NOTHING_TO_SEE, TINY, records, run

pytestmark = pytest.mark.process

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
STEPS = 50


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four scenes with their sentences, 8 x 8 tokens each."""
    folder = tmp_path_factory.mktemp("scenes")
    generate_scenes(folder / "root", train_images=4, val_images=1, image_size=128)
    import_dataset(folder / "root", DATASET, folder / "dataset", split_by=SPLIT_BY)
    write_cache(folder / "dataset", folder / "cache", tiny_settings(), progress=False)
    return folder / "cache"


def loss_curve(impl: str, cache: Path, folder: Path) -> list[float]:
    """Losses of a run as a user would start it; two sentences of one image per step suit the interpreter."""
    settings = [f"data.cache={cache}", f"run.folder={folder}", f"model.mutual_attention_impl={impl}"]
    # On a GPU, cross-attention's kernels take only 16-bit inputs, whose rounding would hide a wrong gradient.
    cross = "triton" if (impl, DEVICE) == ("triton", "cpu") else "projected"
    settings += [f"model.cross_attention_impl={cross}", "model.attention_impl=sdpa"]
    settings += [f"schedule.epochs={STEPS}", f"schedule.max_steps={STEPS}", "run.evaluate_every=null"]
    settings += [
        "data.expressions_per_step=2",
        "data.expressions_per_image=2",
        "model.channels=16",
        "model.heads=2",
        f"engine.device={DEVICE}",
        *NOTHING_TO_SEE,
    ]
    done = run(sys.executable, MAIN, "--config", TINY, *settings, timeout=480)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [one["loss"] for one in records(folder, "train")]


@pytest.mark.slow
def test_fifty_steps_on_scenes_follow_the_references_curve(cache: Path, tmp_path: Path) -> None:
    on_kernels, on_reference = (loss_curve(impl, cache, tmp_path / impl) for impl in ("triton", "reference"))
    assert len(on_reference) == STEPS
    assert sum(on_reference[-10:]) < 0.95 * sum(on_reference[:10])
    torch.testing.assert_close(on_kernels, on_reference, rtol=1e-4, atol=0)
