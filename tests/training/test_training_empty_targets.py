"""Sentences that refer to nothing or to several objects: cached, read, trained, scored."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from maris_fast.data_shards.cache import write_cache
from maris_fast.data_shards.cache.mask_targets import mask_target
from maris_fast.data_shards.cache.verify import verify_cache
from maris_fast.data_shards.importers.formats import import_dataset
from maris_fast.data_shards.stream import CacheReader
from maris_fast.geometry import ImageGeometry
from maris_fast.model.segmentation import Segmentation
from maris_fast.scoring import headline
from maris_fast.train.ranks import Ranks
from maris_fast.train.split_scores import score_expressions, score_split
from maris_fast.weights import load_model
from tests.data.builders import Grefs
from tests.data.cache_dataset import tiny_settings
from tests.training.processes import records, tiny_training
from tests.training.processes import run as process


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of two images, each with sentences for one object and for none, the first also for two."""
    folder = tmp_path_factory.mktemp("no-target")
    grefs = Grefs(folder)
    grefs.write()
    import_dataset(grefs.root, "grefcoco", grefs.out)
    write_cache(grefs.out, folder / "cache", tiny_settings(), progress=False)
    return folder / "cache"


def test_an_empty_mask_stays_empty_at_the_decoders_resolution() -> None:
    geometry = ImageGeometry.of(60, 80, 128)
    assert not mask_target(np.zeros((60, 80), np.uint8), geometry).any()


def test_the_cache_is_what_was_written_and_reads_empty_targets(cache: Path) -> None:
    assert not verify_cache(cache).problems
    with CacheReader(cache, "train", device="cpu") as reader:
        (batch,) = reader.evaluation_batches()
        pairs = zip(batch.samples, batch.targets, strict=True)
        by_text = {sample.text: (sample, target) for sample, target in pairs}
    sample, target = by_text["the green elephant"]
    assert (sample.ann_ids, sample.category) == ((), "")
    assert not target.any()
    assert not sample.target.decode().any()
    both, pair = by_text["both of them"], by_text["the pair"]
    assert len(both[0].ann_ids) == 2
    assert torch.equal(both[1], pair[1])
    assert both[1].sum() > by_text["the one"][1].sum() > 0


def test_exchanged_words_are_never_those_of_the_same_meaning(cache: Path) -> None:
    with CacheReader(cache, "train", device="cpu") as reader:
        assert reader.swappable() == (4, 0)
        (plain,) = reader.evaluation_batches()
        (swapped,) = reader.evaluation_batches(swapped=True)
        own = {sample.sent_id: sample.text for sample in plain.samples}
        read = {own[sample.sent_id]: sample.text for sample in swapped.samples}
    assert read["both of them"] == "the green elephant"
    assert read["the pair"] == "the green elephant"
    assert read["the green elephant"] == "the one"


class Silent(nn.Module):
    """Finds nothing anywhere."""

    def forward(self, features: tuple[Tensor, ...], words: Tensor, *_: Tensor) -> Segmentation:
        height, width = features[0].shape[1:3]
        return Segmentation(torch.full((len(words), 4 * height, 4 * width), -1.0), None)


def test_finding_nothing_is_right_where_nothing_is_meant(cache: Path) -> None:
    with CacheReader(cache, "val", device="cpu") as reader:
        scores = score_split(Silent(), reader.evaluation_batches(), Ranks(torch.device("cpu")))
    assert (scores["expressions"], scores["mIoU"], scores["oIoU"]) == (2, 0.5, 0.0)


@pytest.mark.process
def test_training_learns_from_it_and_scores_and_draws_it(cache: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    done = process(sys.executable, *tiny_training(cache, run, "schedule.epochs=6", "run.pictures=2"))
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    losses = [one["loss"] for one in records(run, "train")]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    pictures = list((run / "pictures").iterdir())
    assert pictures
    assert all(Image.open(path).width > 100 for path in pictures)

    model, _ = load_model(run / "best.safetensors", torch.device("cpu"))
    seen: dict[str, np.ndarray] = {}
    alone = Ranks(torch.device("cpu"))
    with CacheReader(cache, "val", device="cpu") as reader:
        for swapped in (False, True):
            batches = reader.evaluation_batches(swapped=swapped)
            table = score_expressions(model, batches, alone, see=lambda s, m: seen.update({s.text: m}))
            assert headline(table)["expressions"] == 2
    assert seen["nobody"].shape == (60, 80)
