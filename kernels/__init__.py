"""Attention operations, one folder each: plain PyTorch reference, fast implementations and a thin API.

An operation is named after its mathematics; ``impl`` selects the implementation. ``"auto"`` picks what was
proven for the kind of call on this machine; a named implementation never falls back, it raises.
"""

from maris_fast.kernels.cross_attention import cross_attention
from maris_fast.kernels.errors import UnsupportedError
from maris_fast.kernels.multihead_attention import multihead_attention
from maris_fast.kernels.mutual_attention import Reading, mutual_attention, mutual_attention_weights

__all__ = [
    "Reading",
    "UnsupportedError",
    "cross_attention",
    "multihead_attention",
    "mutual_attention",
    "mutual_attention_weights",
]
