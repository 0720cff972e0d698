"""Weights files whose numbers and header must not be trusted before they are checked."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from maris_fast.config import ModelSettings
from maris_fast.errors import CheckpointError
from maris_fast.model import Maris
from maris_fast.model.segmentation import Segmentation
from maris_fast.prediction import Predictor
from maris_fast.weights import load_model, load_weights, save_weights
from tests.cli.untrained import write_untrained
from tests.command_line import maris_fast


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("weights"))


def spoilt(weights: Path, path: Path, value: float) -> str:
    """Write the weights with one number of one tensor set to ``value``; return the tensor's name."""
    tensors, meta = load_weights(weights)
    name = "mask_decoder.upsample.0.weight"
    name = name if name in tensors else next(one for one, tensor in tensors.items() if tensor.ndim > 1)
    tensors[name].view(-1)[3] = value
    save_weights(path, tensors, meta)
    return name


def with_header(weights: Path, path: Path, change: dict[str, Any]) -> Path:
    """Write the tensors unchanged under a changed header; ``change`` is by dotted key."""
    header = json.loads(load_weights(weights)[1].model_dump_json())
    for key, value in change.items():
        *sections, last = key.split(".")
        inner = header
        for section in sections:
            inner = inner[section]
        inner[last] = value
    save_file(load_file(weights), path, metadata={"maris_fast": json.dumps(header)})
    return path


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_with_the_tensors_name(
    weights: Path, tmp_path: Path, value: float
) -> None:
    name = spoilt(weights, tmp_path / "bad.safetensors", value)
    for load in (load_weights, load_model, Predictor):
        with pytest.raises(CheckpointError, match=rf"1 of the [\d,]+ numbers of {name} are not finite"):
            load(tmp_path / "bad.safetensors")
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(tmp_path / "photo.png")
    out = tmp_path / "out"
    arguments = [str(tmp_path / "photo.png"), "a", "--weights", str(tmp_path / "bad.safetensors")]
    done = maris_fast("predict", *arguments, "--out", str(out))
    assert done.exit_code != 0
    assert not out.exists()


def test_an_output_that_is_not_finite_gives_no_mask(weights: Path) -> None:
    """Finite weights may overflow, as these of 3e38 do."""
    predictor = Predictor(weights)
    with torch.no_grad():
        for parameter in predictor.model.parameters():
            parameter.fill_(3e38)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 96, 3)).astype(np.uint8))
    for ask in (predictor.masks, predictor.logits, predictor.attention):
        with pytest.raises(CheckpointError, match="the model's output is not finite"):
            ask(image, ["the red circle"])


@pytest.mark.parametrize("no_target", [None, torch.tensor([math.nan])])
def test_either_output_must_be_finite(no_target: Tensor | None) -> None:
    Segmentation(torch.zeros(1, 4, 4), None).require_finite()
    logits = torch.full((1, 4, 4), math.inf if no_target is None else 0.0)
    with pytest.raises(CheckpointError, match="not finite"):
        Segmentation(logits, no_target).require_finite()


LOAD = """
import resource, sys, time
from pathlib import Path
from maris_fast.errors import MarisError
from maris_fast.prediction import Predictor
Predictor(Path(sys.argv[1]))
for path in map(Path, sys.argv[2:]):
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.monotonic()
    try: Predictor(path); print("loaded")
    except MarisError as error: print(str(error).replace(chr(10), " "))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""

LYING: dict[str, tuple[dict[str, Any], str]] = {
    "blocks": ({"model.ma_blocks": 10**8}, r"model\.ma_blocks: .*less than or equal to 64"),
    "channels": ({"model.channels": 10**7}, r"model\.channels: .*less than or equal to 16384"),
    "decoder": ({"model.decoder_blocks": 10**8}, r"model\.decoder_blocks: .*less than or equal to 64"),
    "forward": ({"model.decoder_feed_forward": 1e12}, r"decoder_feed_forward: .*less than or equal to 64"),
    "visual": ({"visual_channels": 10**9}, r"visual_channels: .*less than or equal to 16384"),
    "allowed": (
        {"model.ma_blocks": 64, "model.channels": 16384, "model.decoder_feed_forward": 64},
        r"does not fit the model its header describes: feature_enhancement.* is .*, expected \(16384",
    ),
    "sam": ({"encoders.sam.image_size": 10**7}, r"sam\.image_size: .*less than or equal to 4096"),
    "seed": ({"encoders.sam.seed": 10**30}, r"sam\.seed: .*"),
    "encoders": ({"encoders.sam": None}, r"cannot be read by this version: encoders\.sam: "),
}


@pytest.mark.process
def test_a_header_is_believed_only_within_bounds_and_if_the_tensors_are_there(
    weights: Path, tmp_path: Path
) -> None:
    """What the bounds allow would still take hundreds of gigabytes; none of it is allocated."""
    paths = [
        str(with_header(weights, tmp_path / f"{name}.safetensors", change))
        for name, (change, _) in LYING.items()
    ]
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(weights), *paths],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    lines = done.stdout.splitlines()
    for (name, (_, message)), told, kilobytes in zip(LYING.items(), lines[::2], lines[1::2], strict=True):
        assert re.search(message, told), (name, told)
        assert int(kilobytes) < 100_000, (name, kilobytes)


@pytest.mark.parametrize(
    "settings",
    [
        ModelSettings(channels=16, heads=2, **change)
        for change in (
            {},
            {"enhancement": "vit_det", "fusion": "bidirectional", "no_target": True},
            {"enhancement": "last", "fusion": "spatial_dynamic", "decoder": "sam"},
            {"fusion": "transformer", "decoder_norm": "pre", "decoder_feed_forward": 2.0},
            {"ma_blocks": 0, "linguistic_guidance": "product", "token_to_image": True},
        )
    ],
)
def test_every_kind_of_model_loads_as_it_was_saved(
    weights: Path, tmp_path: Path, settings: ModelSettings
) -> None:
    _, meta = load_weights(weights)
    model = Maris(settings, meta.visual_channels, meta.text_channels)
    save_weights(tmp_path / "a.safetensors", model.state_dict(), meta.model_copy(update={"model": settings}))
    loaded, _ = load_model(tmp_path / "a.safetensors")
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(loaded.state_dict()[name], tensor, rtol=0, atol=0)
