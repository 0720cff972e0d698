"""#5, the transformer encoder (TE) of ReSTR: pixels and words as one sequence under self-attention."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maris_fast.config import ModelSettings
from maris_fast.kernels.mutual_attention import tokens_of_expressions
from maris_fast.model.layers import MLP, MultiHeadAttention

FEED_FORWARD = 4
"""Hidden width divided by C, as in Vaswani et al. 2017."""


class TransformerFusion(nn.Module):
    """One encoder layer on [F_v; F_l]: x = LN(x + MHSA(x)), then x = LN(x + MLP(x)).

    Args:
        settings: the model's settings.
        channels_l: C' in the first layer, which projects both kinds of token to C; None in the others.
    """

    def __init__(self, settings: ModelSettings, channels_l: int | None) -> None:
        super().__init__()
        C = settings.channels
        self.project_v = nn.Linear(C, C) if channels_l else nn.Identity()
        self.project_l = nn.Linear(channels_l, C) if channels_l else nn.Identity()
        self.attention = MultiHeadAttention(C, settings.heads, settings.attention_impl)
        self.norm_attention = nn.LayerNorm(C)
        self.feed_forward = MLP(C, FEED_FORWARD * C, C)
        self.norm_feed_forward = nn.LayerNorm(C)

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
        z_v = tokens_of_expressions(self.project_v(f_v), expr_offsets, f_l.shape[0])
        z_l = self.project_l(f_l)
        x = torch.cat([z_v, z_l], dim=1)
        key_mask = torch.cat([word_mask.new_ones(z_v.shape[:2]), word_mask], dim=1)
        x = self.norm_attention(x + self.attention(x, x, x, key_mask))
        x = self.norm_feed_forward(x + self.feed_forward(x))
        f_lav, f_val = x.split([z_v.shape[1], z_l.shape[1]], dim=1)
        return f_lav, f_val
