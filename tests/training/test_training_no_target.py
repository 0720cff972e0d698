"""A model that may answer that there is nothing to segment: trained, scored and used for prediction."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maris_fast.config import LossSettings, ModelSettings
from maris_fast.data_shards.cache import write_cache
from maris_fast.data_shards.records import ImageRecord, Target
from maris_fast.data_shards.stream import CacheReader
from maris_fast.model import Maris
from maris_fast.prediction import Predictor
from maris_fast.rle import Rle
from maris_fast.train.engine import ModelWithLoss
from maris_fast.train.ranks import Ranks
from maris_fast.train.split_scores import score_split
from maris_fast.weights import load_model, load_weights, save_weights
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset
from tests.training.processes import NOTHING_TO_SEE, records, run, tiny_training

CPU = Ranks(torch.device("cpu"))


def aimless(record: ImageRecord) -> ImageRecord:
    """The same image, with a last sentence that refers to nothing in it."""
    nothing = Target(
        ref_id=100 * record.image_id + 99,
        ann_ids=(),
        category="",
        mask=Rle.encode(np.zeros((record.height, record.width), np.uint8)),
        area=0,
    )
    last = record.expressions[0].model_copy(
        update={"sent_id": 10_000 * record.image_id + 99, "target": len(record.targets), "text": "a whale"}
    )
    return record.model_copy(
        update={"targets": (*record.targets, nothing), "expressions": (*record.expressions, last)}
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``cache`` and ``run``, one rank at ZeRO 3; ``output`` is what the run printed."""
    folder = tmp_path_factory.mktemp("no_target")
    aimed = [aimless(record) for record in default_records()]
    dataset = write_dataset(folder / "dataset", {"train": aimed, "val": aimed[2:4]})
    write_cache(dataset, folder / "cache", tiny_settings(), progress=False)
    done = run(
        *(sys.executable, *tiny_training(folder / "cache", folder / "run")),
        *("model.no_target=true", "engine.zero_stage=3", "loss.no_target_weight=0.5", *NOTHING_TO_SEE),
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (folder / "output").write_text(done.stdout)
    return folder


@pytest.mark.process
def test_the_third_loss_is_in_the_total_and_in_each_line(trained: Path) -> None:
    steps = records(trained / "run", "train")
    assert len(steps) > 2
    for step in steps:
        assert step["no_target"] > 0
        assert step["loss"] == pytest.approx(step["focal"] + step["dice"] + 0.5 * step["no_target"])
    assert f"no-target {steps[0]['no_target']:.4f})" in (trained / "output").read_text()


@pytest.mark.process
@pytest.mark.parametrize("says_nothing", [True, False])
def test_an_expression_that_the_model_calls_aimless_is_scored_with_an_empty_mask(
    trained: Path, says_nothing: bool
) -> None:
    model, _ = load_model(trained / "run" / "best.safetensors")
    decided(model, says_nothing)
    seen: list[tuple[bool, bool]] = []
    with CacheReader(trained / "cache", "val") as reader:
        scores = score_split(
            model,
            reader.evaluation_batches(),
            CPU,
            see=lambda sample, mask: seen.append((bool(sample.ann_ids), bool(mask.any()))),
        )
    assert len(seen) == scores["expressions"] == 9
    assert sum(1 for meant, _ in seen if not meant) == 2
    assert all(predicted != says_nothing for _, predicted in seen)
    if says_nothing:
        # Only the two sentences that refer to nothing are right.
        assert (scores["oIoU"], scores["mIoU"]) == (0, pytest.approx(2 / 9))


@pytest.mark.process
@pytest.mark.parametrize("says_nothing", [True, False])
def test_prediction_gives_it_an_empty_mask(trained: Path, says_nothing: bool, tmp_path: Path) -> None:
    tensors, meta = load_weights(trained / "run" / "best.safetensors")
    model = Maris(meta.model, meta.visual_channels, meta.text_channels)
    model.load_state_dict(tensors)
    decided(model, says_nothing)
    save_weights(tmp_path / "decided.safetensors", model.state_dict(), meta)
    predictor = Predictor(tmp_path / "decided.safetensors")
    photo = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8))
    masks = predictor.masks(photo, ["the red circle", "bar"])
    assert masks.shape == (2, 90, 140)
    assert masks.any() != says_nothing
    assert predictor.logits(photo, ["bar"]).isfinite().all()


def decided(model: Maris, says_nothing: bool) -> None:
    """Set weights so that masks cover every pixel and all expressions get the same no-target output."""
    with torch.no_grad():
        model.no_target[-1].weight.zero_()
        model.no_target[-1].bias.fill_(1e-3 if says_nothing else 0.0)
        model.mask_decoder.query_mlp[-1].weight.zero_()
        model.mask_decoder.query_mlp[-1].bias.fill_(1.0)
        for block in model.mask_decoder.upsampling:
            if isinstance(block, torch.nn.Sequential):
                block[1].weight.zero_()
                block[1].bias.fill_(1.0)


@pytest.mark.parametrize("decoder", ["maris", "sam"])
def test_training_teaches_which_sentences_mean_nothing(decoder: str) -> None:
    torch.manual_seed(0)
    settings = ModelSettings.model_validate(
        {"channels": 16, "heads": 2, "keep": "all", "decoder": decoder, "no_target": True}
    )
    objective = ModelWithLoss(Maris(settings, 6, 5), LossSettings(no_target_weight=1.0), "fp32")
    features = [torch.randn(2, 3, 4, 6) for _ in range(3)]
    words, word_mask = torch.randn(6, 3, 5), torch.ones(6, 3, dtype=torch.bool)
    offsets = torch.tensor([0, 4, 6], dtype=torch.int32)
    targets = torch.rand(6, 12, 16) > 0.5
    targets[1::2] = False
    optimiser = torch.optim.AdamW(objective.parameters(), lr=3e-3)
    for _ in range(60):
        total, sums, _ = objective(features, words, word_mask, offsets, targets, torch.ones(6))
        optimiser.zero_grad()
        total.backward()
        optimiser.step()
    assert sums[3] / 6 < 0.1
    said = objective.model(features, words, word_mask, offsets)
    assert (said.no_target > 0).tolist() == [False, True] * 3


def test_a_model_without_the_output_has_none() -> None:
    model = Maris(ModelSettings(channels=16, heads=2), 6, 5)
    assert model.no_target is None
    assert not any("no_target" in name for name in model.state_dict())
