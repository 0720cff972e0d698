"""What words gather from the pixels in eq. 5, read in four ways, in a MARIS at its initialisation, in fp64.

::

    python -m maris_fast.bench.gathered_words

For each grid and width, of the first block's words: how long what they gather is beside Z_l, the mean cosine
between different words of Z_l and then of F_val, and how many pixels a word's weights are spread over,
1 / Σ w² of weights w that sum to 1. The features are normal noise. Their ``scale`` is 1, or what gives S a
standard deviation of 4, as trained projections do.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.linalg import vector_norm

from maris_fast.config import ModelSettings
from maris_fast.kernels.mutual_attention.reference import attention_weights, gate, relevance
from maris_fast.model import Maris
from maris_fast.model.mutual_aware_attention import MutualAwareAttention

SIZES = {(10, 10): 64, (32, 24): 64, (64, 48): 256}
WORDS, C_V, C_T = 10, 64, 64


def ways(z_v: Tensor, z_l: Tensor) -> dict[str, Tensor]:
    """Weights of words over pixels [L_t, L_v], for z_v [1, L_v, C] and z_l [1, L_t, C]."""
    S = relevance(z_v, z_l)
    A = attention_weights(S, gate(S, 0.5, "relevant", None))[0].T
    return {
        "Aᵀ, as printed": A,
        "Aᵀ over A's column sums": A / A.sum(1, keepdim=True).clamp(min=1e-300),
        "Aᵀ / L_v": A / A.shape[1],
        "softmax over pixels": torch.softmax(S[0], dim=0).T,
    }


def cosine(words: Tensor) -> float:
    """Mean over pairs of different words."""
    unit = F.normalize(words, dim=1)
    return ((unit @ unit.T).sum() - len(unit)).item() / (len(unit) ** 2 - len(unit))


@torch.inference_mode()
def main() -> None:
    for grid, channels in SIZES.items():
        torch.manual_seed(0)
        model = Maris(ModelSettings(channels=channels), C_V, C_T).double().train()
        features = [torch.randn(1, *grid, C_V, dtype=torch.float64) for _ in range(3)]
        block = model.ma_blocks[0]
        assert isinstance(block, MutualAwareAttention)
        z_v = block.W_v(model.feature_enhancement(features).flatten(1, 2))
        z_l = block.W_l(torch.randn(1, WORDS, C_T, dtype=torch.float64))
        deviation = relevance(z_v, z_l).std().item()
        for scale in (1, (4 / deviation) ** 0.5):
            v, words = scale * z_v, scale * z_l[0]
            print(
                f"{grid[0]} x {grid[1]}, C = {channels}, std of S {scale**2 * deviation:.2f}, "
                f"cosine of Z_l {cosine(words):.2f}"
            )
            for name, weights in ways(v, words[None]).items():
                U = weights @ v[0]
                spread = (weights.sum(1) ** 2 / (weights**2).sum(1)).nanmean()
                beside = vector_norm(U, dim=1).mean() / vector_norm(words, dim=1).mean()
                f_val = F.layer_norm(U + words, words.shape[1:])
                print(f"  {name:24} {beside:9.3f} {cosine(f_val):6.2f} {spread:7.0f} pixels")


if __name__ == "__main__":
    main()
