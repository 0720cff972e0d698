"""Whether a cache has the splits a command names: checked before anything slow is imported or started."""

from __future__ import annotations

from pathlib import Path

from maris_fast.config.places import StoreAddress
from maris_fast.config.training import DataSettings
from maris_fast.data_shards.cache import read_manifest
from maris_fast.data_shards.cache.manifest import MANIFEST
from maris_fast.errors import InputError


def require_split(cache: Path | StoreAddress, split: str) -> None:
    """Raises InputError where the cache cannot be read or has no such split."""
    read_manifest(cache).of_split(split, cache)


def require_own_splits(data: DataSettings) -> None:
    """As ``require_split``, for both splits of a training; a cache that is fetched later is not checked."""
    if data.shards is not None:
        return
    manifest = read_manifest(data.cache)
    for setting in ("train_split", "val_split"):
        try:
            manifest.of_split(getattr(data, setting), data.cache)
        except InputError as error:
            raise InputError(
                f"{error}. Set data.{setting} to an existing split; to make a split val of some of the "
                "train images, import the data set with `maris-fast import --hold-out 0.1` and cache it again"
            ) from error


def require_known_splits(data: DataSettings) -> None:
    """As ``require_own_splits``, on one of many ranks: if this machine has no cache, the ranks must connect
    first, so that the error names the rank. An address is left to the reader.
    """
    if isinstance(data.cache, Path) and (data.cache / MANIFEST).is_file():
        require_own_splits(data)
