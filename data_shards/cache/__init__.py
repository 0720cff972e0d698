"""The feature cache: outputs of the frozen encoders, computed once, as WebDataset shards with an index."""

from typing import TYPE_CHECKING, Any

from maris_fast.data_shards.cache.manifest import CacheManifest, read_manifest

if TYPE_CHECKING:
    from maris_fast.data_shards.cache.write import write_cache

__all__ = ["CacheManifest", "read_manifest", "write_cache"]


def __getattr__(name: str) -> Any:
    # The writer needs the encoders' libraries, a reader does not.
    if name != "write_cache":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from maris_fast.data_shards.cache.write import write_cache

    return write_cache
