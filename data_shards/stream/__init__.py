"""Batches of image groups from a feature cache, in an order that seed and epoch determine."""

from maris_fast.data_shards.stream.batch import Batch
from maris_fast.data_shards.stream.reader import EVALUATED_AT_ONCE, CacheReader

__all__ = ["EVALUATED_AT_ONCE", "Batch", "CacheReader"]
