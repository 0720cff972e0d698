"""Mutual-aware attention, eqs. 3-5 of the paper; the mathematics is in this folder's README."""

from maris_fast.kernels.mutual_attention.api import chosen_impl, mutual_attention, mutual_attention_weights
from maris_fast.kernels.mutual_attention.reference import AS_PRINTED, Reading, tokens_of_expressions

__all__ = [
    "AS_PRINTED",
    "Reading",
    "chosen_impl",
    "mutual_attention",
    "mutual_attention_weights",
    "tokens_of_expressions",
]
