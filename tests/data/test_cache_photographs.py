"""Int8 features of real photographs through the ViT-B architecture."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

from maris_fast.config import SamSettings
from maris_fast.data_shards.cache.features import as_tensor, from_stored, to_stored
from maris_fast.encoders import SamEncoder


@pytest.mark.slow
def test_int8_keeps_each_level_within_one_per_cent(refmini: Path) -> None:
    # Random weights lack the outlier channels of trained ones, for which there is a scale per channel.
    encoder = SamEncoder(SamSettings(arch="vit_b", weights="random", image_size=256))
    photographs = sorted(refmini.rglob("*.jpg"))[:2]
    for levels in encoder.encode([Image.open(path) for path in photographs]):
        for level in levels:
            restored = torch.empty_like(level)
            q, scale = to_stored(level, "int8")
            assert scale is not None
            from_stored(as_tensor(q, "int8"), torch.from_numpy(scale), restored)
            error = (restored - level).square().mean().sqrt() / level.square().mean().sqrt()
            assert error <= 0.01
