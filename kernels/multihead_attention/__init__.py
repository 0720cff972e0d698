"""Multi-head attention behind one signature: xformers, PyTorch's own, and a reference."""

from maris_fast.kernels.multihead_attention.api import chosen_impl, multihead_attention

__all__ = ["chosen_impl", "multihead_attention"]
