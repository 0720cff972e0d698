"""Attention of many queries to few keys with its projections: as written, or folded into the keys."""

from maris_fast.kernels.cross_attention.api import cross_attention, fewer_products
from maris_fast.kernels.cross_attention.implementations import IMPLEMENTATIONS

__all__ = ["IMPLEMENTATIONS", "cross_attention", "fewer_products"]
