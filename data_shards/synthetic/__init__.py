"""Rendered scenes with expressions that are true of exactly one object, in RefCOCO's layout on disk."""

from maris_fast.data_shards.synthetic.dataset import DATASET, SPLIT_BY, generate_scenes

__all__ = ["DATASET", "SPLIT_BY", "generate_scenes"]
