"""A real cache of five images, made with the tiny random encoders."""

from __future__ import annotations

from pathlib import Path

from maris_fast.data_shards.cache import write_cache
from tests.data.cache_dataset import default_records, tiny_settings, write_dataset


def write_tiny_cache(folder: Path) -> Path:
    """``folder/cache`` with the splits train and val."""
    records = default_records()
    dataset = write_dataset(folder / "dataset", {"train": records, "val": records[2:4]})
    write_cache(dataset, folder / "cache", tiny_settings(), progress=False)
    return folder / "cache"
