"""Multi-head attention behind one signature: xformers, PyTorch's, FlashAttention 3 and 4, a reference."""

from maris_fast.kernels.multihead_attention.api import chosen_impl, multihead_attention
from maris_fast.kernels.multihead_attention.implementations import IMPLEMENTATIONS, why_unsupported

__all__ = ["IMPLEMENTATIONS", "chosen_impl", "multihead_attention", "why_unsupported"]
