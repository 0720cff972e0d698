"""Vision-guided attention without eq. 4's gate: a weighted mean of the words for each pixel."""

from __future__ import annotations

import math

from torch import Tensor

from maris_fast.kernels import multihead_attention
from maris_fast.kernels.multihead_attention.api import Impl


def attention_over_words(z_v: Tensor, z_l: Tensor, word_mask: Tensor, impl: Impl) -> Tensor:
    """softmax(Z_v Z_lᵀ) Z_l, not scaled, as in eq. 3: [E, L_v, C], [E, L_t, C] -> [E, L_v, C]."""
    words = z_l[:, :, None]
    unscaled = math.sqrt(z_v.shape[2]) * z_v[:, :, None]
    return multihead_attention(unscaled, words, words, word_mask, impl)[:, :, 0]
