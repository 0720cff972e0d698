from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from maris_fast.data_shards.stream import CacheReader
from maris_fast.geometry import ImageGeometry
from maris_fast.pictures.overlays import PREDICTION, TRUTH
from maris_fast.rle import Rle
from maris_fast.sample import Sample
from maris_fast.train.run_logger import RankZeroLogger
from maris_fast.train.validation_pictures import GREY, SampleMasks, SampleSheet
from maris_fast.train.wandb_mirror import WandbMirror
from tests.data.cache_dataset import box
from tests.training.tiny_cache import write_tiny_cache
from tests.training.toy_run import toy_settings

HEIGHT, WIDTH = 60, 90


def sample(image_id: int, sent_id: int) -> Sample:
    truth, geometry = Rle.encode(box(HEIGHT, WIDTH, 10, 10, 50, 40)), ImageGeometry.unresized(HEIGHT, WIDTH)
    return Sample(image_id, 0, sent_id, f"thing {sent_id}", truth, geometry, image=f"{image_id}.png")


EVERY = [sample(image, 100 * image + sentence) for image in range(12) for sentence in range(3)]
MASK = torch.from_numpy(box(HEIGHT, WIDTH, 20, 30, 40, 80) > 0)


def kept_of(samples: list[Sample], wanted: int) -> SampleMasks:
    masks = SampleMasks(wanted)
    for one in samples:
        masks.see(one, MASK)
    return masks


@given(st.permutations(EVERY), st.integers(1, 3), st.integers(1, 15))
def test_the_same_expressions_are_kept_on_any_number_of_ranks(
    samples: list[Sample], world: int, wanted: int
) -> None:
    whole = SampleMasks(wanted)
    for rank in range(world):
        mine = [one for one in samples if one.image_id % world == rank]
        whole.merge(kept_of(mine, wanted).kept())
    assert whole.kept() == kept_of(EVERY, wanted).kept()
    images = [one.sample.image_id for one in whole.kept()]
    assert len(images) == len(set(images)) == min(wanted, 12)


def test_none_are_kept_where_none_are_wanted() -> None:
    assert kept_of(EVERY, 0).kept() == []


def test_masks_stand_on_their_image_or_on_grey_which_is_said_once(tmp_path: Path) -> None:
    drawn, said = kept_of(EVERY, 2).kept(), []
    Image.new("RGB", (WIDTH, HEIGHT), (0, 0, 250)).save(tmp_path / drawn[0].sample.image)
    sheet = SampleSheet(tmp_path)
    for _ in range(2):
        picture = sheet.draw(drawn, said.append)
    assert len(said) == 1
    assert drawn[1].sample.image in said[0]
    pixels = np.asarray(picture).reshape(-1, 3)
    assert (pixels == PREDICTION).all(1).any()
    assert (pixels == TRUTH).all(1).any()
    dimmed = np.asarray(picture)[12, [12, picture.width // 2 + 12]].astype(int)
    assert dimmed[0, 2] > 2 * dimmed[0, 0]  # blue
    assert (dimmed[1] == int(0.55 * GREY[0])).all()


def test_kept_masks_are_those_that_were_seen_of_a_real_cache(tmp_path: Path) -> None:
    with CacheReader(write_tiny_cache(tmp_path), "train") as reader:
        (first, *_) = (batch for batch in reader.evaluation_batches())
        one = first.samples[0]
        mask = torch.rand(one.target.size) > 0.5
        masks = SampleMasks(1)
        masks.see(one, mask)
        root = Path(reader.manifest.dataset.image_root)
    (drawn,) = masks.kept()
    assert (drawn.sample, drawn.mask) == (one, Rle.encode(mask.numpy()))
    said: list[str] = []
    SampleSheet(root).draw([drawn], said.append)
    assert said == []


def test_pictures_that_cannot_be_written_are_said_once_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "pictures").touch()  # no folder can be created there
    with RankZeroLogger(toy_settings(tmp_path), step=0, total_steps=9) as logger:
        for step in (3, 6):
            logger.picture(step, lambda: Image.new("RGB", (8, 8)))
    first, count = (record.getMessage() for record in caplog.records)
    assert first.startswith("pictures cannot be written (FileExistsError")
    assert count == "pictures: pictures that could not be written: 2"


def test_a_command_for_shards_is_not_sent_to_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may hold a token."""
    sent: list[dict[str, Any]] = []
    monkeypatch.setitem(
        __import__("sys").modules, "wandb", SimpleNamespace(init=lambda **given: sent.append(given["config"]))
    )
    command = "pipe:curl -sf 'https://example.com/{name}?sig=secret'"
    WandbMirror(toy_settings(tmp_path, **{"data.shards": command, "data.staging": "/tmp/staging"}))
    (config,) = sent
    assert config["data"]["staging"] == "/tmp/staging"
    assert config["model"]["channels"] == 256
    assert "secret" not in str(config)


def test_a_mirror_that_fails_is_switched_off_and_the_run_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def offline(**_: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setitem(__import__("sys").modules, "wandb", SimpleNamespace(init=offline))
    with caplog.at_level(logging.WARNING):
        mirror = WandbMirror(toy_settings(tmp_path))
        mirror.scalars(1, {"train/loss": 0.5})
        mirror.close()
    assert [record.getMessage() for record in caplog.records] == [
        "W&B cannot be written (OSError: no route to host); it is off from here on; training continues"
    ]
