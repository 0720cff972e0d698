"""Whether a cache has the splits that a command names: told before anything slow is imported or started."""

from __future__ import annotations

from pathlib import Path

from maris_fast.config.training import DataSettings
from maris_fast.data_shards.cache import read_manifest
from maris_fast.data_shards.cache.manifest import MANIFEST


def require_split(cache: Path, split: str) -> None:
    """Raises InputError where the cache cannot be read or has no such split."""
    read_manifest(cache).of_split(split, cache)


def require_own_splits(data: DataSettings) -> None:
    """As ``require_split``, of both splits of a training; a cache that is fetched later is not looked at."""
    if data.shards is None:
        require_split(data.cache, data.train_split)
        require_split(data.cache, data.val_split)


def require_known_splits(data: DataSettings) -> None:
    """As ``require_own_splits``, on one of many ranks: where this machine has no cache, the ranks have to
    meet first, so that somebody says where.
    """
    if (data.cache / MANIFEST).is_file():
        require_own_splits(data)
