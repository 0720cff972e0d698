"""Whether a cache has the splits that a command names: told before anything slow is imported or started."""

from __future__ import annotations

from pathlib import Path

from maris_fast.config.training import DataSettings
from maris_fast.data_shards.cache import read_manifest


def require_split(cache: Path, split: str) -> None:
    """Raises InputError where the cache cannot be read or has no such split."""
    read_manifest(cache).of_split(split, cache)


def require_own_splits(data: DataSettings) -> None:
    """As ``require_split``, of both splits of a training; a cache that is fetched later is not looked at."""
    if data.shards is None:
        require_split(data.cache, data.train_split)
        require_split(data.cache, data.val_split)
