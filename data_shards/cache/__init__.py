"""The feature cache: what the frozen encoders gave, once, as WebDataset shards with an index."""

from maris_fast.data_shards.cache.manifest import CacheManifest, read_manifest
from maris_fast.data_shards.cache.write import write_cache

__all__ = ["CacheManifest", "read_manifest", "write_cache"]
