"""Attention of many queries to few keys with its projections: as written, or folded into the keys."""

from maris_fast.kernels.cross_attention.api import chosen_impl, cross_attention, fewer_products

__all__ = ["chosen_impl", "cross_attention", "fewer_products"]
