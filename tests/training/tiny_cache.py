"""A real cache of five images by the tiny random encoders, and an untrained model for it."""

from __future__ import annotations

from pathlib import Path

import torch

from maris_fast.config import ModelSettings
from maris_fast.data_shards.cache import read_manifest, write_cache
from maris_fast.model import Maris
from maris_fast.train.cache_info import CacheInfo
from maris_fast.weights import WeightsMeta, save_weights
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset


def write_tiny_cache(folder: Path, **settings: object) -> Path:
    """Write ``folder/cache`` with the splits train and val, from the data set ``folder/dataset``."""
    records = default_records()
    dataset = write_dataset(folder / "dataset", {"train": records, "val": records[2:4]})
    write_cache(dataset, folder / "cache", tiny_settings(**settings), progress=False)
    return folder / "cache"


def write_untrained_for(cache: Path, path: Path) -> Path:
    """Write untrained weights to ``path`` as training on ``cache`` would save them; the same each time."""
    manifest = read_manifest(cache)
    source, settings = CacheInfo.of(manifest, "train"), ModelSettings(channels=16, heads=2)
    meta = WeightsMeta(
        model=settings,
        visual_channels=source.visual_channels,
        text_channels=source.text_channels,
        tau=0.5,
        step=1,
        scores=None,
        encoders=source.encoders,
    )
    torch.manual_seed(0)
    save_weights(path, Maris(settings, manifest.channels, manifest.text_channels).state_dict(), meta)
    return path
