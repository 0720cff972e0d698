"""#6, spatial dynamic fusion (SDF) of VLT: vision-guided attention only, by MARIS' own equations."""

from __future__ import annotations

from torch import Tensor, nn

from maris_fast.config import ModelSettings
from maris_fast.kernels.mutual_attention import tokens_of_expressions
from maris_fast.model.ablations.attention_over_words import attention_over_words


class SpatialDynamicFusion(nn.Module):
    """f_lav = LN(A Z_l + Z_v), A = softmax(Z_v Z_lᵀ) over all words; f_val = Z_l, not guided by pixels."""

    def __init__(self, settings: ModelSettings, channels_l: int) -> None:
        super().__init__()
        self.impl = settings.attention_impl
        self.W_v = nn.Linear(settings.channels, settings.channels, bias=False)
        self.W_l = nn.Linear(channels_l, settings.channels, bias=False)
        self.norm_v = nn.LayerNorm(settings.channels)

    def forward(
        self,
        f_v: Tensor,
        f_l: Tensor,
        word_mask: Tensor,
        tau: Tensor,
        expr_offsets: Tensor | None,
        grid: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """f_v [I, L_v, C], f_l [E, L_t, C_l] -> f_lav [E, L_v, C], f_val [E, L_t, C]; tau, grid: unused."""
        z_v = tokens_of_expressions(self.W_v(f_v), expr_offsets, f_l.shape[0])
        z_l = self.W_l(f_l)
        return self.norm_v(attention_over_words(z_v, z_l, word_mask, self.impl) + z_v), z_l
