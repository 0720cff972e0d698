"""Batches of image groups from a feature cache, in an order that seed and epoch determine."""

from maris_fast.data_shards.stream.batch import Batch
from maris_fast.data_shards.stream.reader import CacheReader

__all__ = ["Batch", "CacheReader"]
