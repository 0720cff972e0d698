"""Tiny encoders trained on separate scenes, and their weights as files that the cache accepts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from maris_fast.config import SamSettings, TextSettings
from maris_fast.data_shards.synthetic.pretraining import (
    image_encoder,
    pretrain_image_encoder,
    pretrain_text_encoder,
)
from maris_fast.data_shards.synthetic.pretraining.schedule import HELD_OUT, PAIRS, PICTURES, stream
from maris_fast.encoders.sam import SamEncoder
from maris_fast.encoders.text import TextEncoder
from tests.command_line import maris_fast


@pytest.mark.slow
def test_a_text_encoders_weights_are_a_file_that_the_cache_reads(tmp_path: Path) -> None:
    steps: list[int] = []
    tensors, zero_shot = pretrain_text_encoder(
        steps=2, pairs=16, batch=8, progress=lambda done, total: steps.append(done)
    )
    assert steps == [1, 2]
    assert 0 <= zero_shot <= 1
    save_file(tensors, tmp_path / "text.safetensors")
    encoder = TextEncoder(TextSettings(arch="tiny", weights=str(tmp_path / "text.safetensors")))
    trained = encoder.tower.state_dict()["ln_final.bias"]
    assert torch.equal(trained, tensors["ln_final.bias"].float())
    assert not torch.equal(trained, torch.zeros_like(trained)), "as it was before training"


@pytest.mark.slow
def test_an_image_encoders_weights_are_a_checkpoint_that_the_cache_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_encoder, "HELD_OUT_PICTURES", 8)
    tensors, again, other = (
        pretrain_image_encoder(steps=1, pictures=4, batch=2, seed=seed)[0] for seed in (0, 0, 1)
    )
    assert all(torch.equal(tensors[name], again[name]) for name in tensors), "the same seed, the same weights"
    name = "image_encoder.patch_embed.proj.weight"
    assert not torch.equal(tensors[name], other[name])
    save_file(tensors, tmp_path / "sam.safetensors")
    settings = SamSettings(arch="vit_tiny", weights=str(tmp_path / "sam.safetensors"), image_size=160)
    trained = SamEncoder(settings).vit.state_dict()["patch_embed.proj.weight"]
    assert torch.equal(trained, tensors[name].float())


@pytest.mark.parametrize("which", [PICTURES, PAIRS, HELD_OUT])
def test_no_picture_is_one_of_a_split(which: int) -> None:
    """The scenes of a split come from SeedSequence(seed, spawn_key=(split, index)) with split 0 or 1."""
    own = stream(7, which, 3).random(4)
    for split in (0, 1):
        scene = np.random.default_rng(np.random.SeedSequence(7, spawn_key=(split, 3))).random(4)
        assert not np.array_equal(own, scene)


def test_pretrain_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    words = ["pretrain", "--out", str(tmp_path), "--image-steps", "1", "--text-steps", "1"]
    run = maris_fast(*words)
    assert run.exit_code != 0
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]
