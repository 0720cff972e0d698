"""#7, the bidirectional cross-modal module (BCM) of BRINet (Hu et al. 2020), on grids of any size."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maris_fast.config import ModelSettings
from maris_fast.kernels import multihead_attention
from maris_fast.kernels.mutual_attention import tokens_of_expressions
from maris_fast.model.ablations.attention_over_words import attention_over_words
from maris_fast.model.layers import on_map
from maris_fast.model.positions import sine_positions

RATES = (1, 3, 5, 7)
"""Dilations of the 3×3 convolutions after the two attentions."""


class BidirectionalFusion(nn.Module):
    """Pixels attend to words, then, guided by these, to pixels; then context convolutions; f_val = Z_l.

    V_n = ReLU(F_v W_n + b_n), n = 1 to 4. K = softmax(V_1 Z_lᵀ) Z_l; A = tanh(K W_q + V_2 W_v);
    rel = softmax(P (A W_a)ᵀ / √C); O = rel V_3; F = ReLU([O; K] W_o + b_o) + V_4; f_lav = ReLU of a linear
    layer on [F; each dilated convolution of F].

    BRINet's rel is softmax(W_a Aᵀ), whose W_a has a row per position of its one fixed grid, and O = V_3 rel.
    Here grids have any size: P holds the grid's sine positions, and W_a is a linear map. Each pixel gathers
    by its own row of rel, so this is attention, and rel is never materialised.
    """

    def __init__(self, settings: ModelSettings, channels_l: int) -> None:
        super().__init__()
        C = settings.channels
        self.impl = settings.attention_impl
        self.V_1, self.V_2, self.V_3, self.V_4 = (nn.Linear(C, C) for _ in range(4))
        self.W_l = nn.Linear(channels_l, C, bias=False)
        self.W_q = nn.Linear(C, C, bias=False)
        self.W_v = nn.Linear(C, C, bias=False)
        self.W_a = nn.Linear(C, C, bias=False)
        self.join = nn.Linear(2 * C, C)
        self.context = nn.ModuleList(
            nn.Conv2d(C, C // 2, kernel_size=3, padding=rate, dilation=rate) for rate in RATES
        )
        self.out = nn.Linear(C + len(RATES) * (C // 2), C)

    def forward(
        self,
        f_v: Tensor,
        f_l: Tensor,
        word_mask: Tensor,
        tau: Tensor,
        expr_offsets: Tensor | None,
        grid: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """f_v [I, h·w, C], f_l [E, L_t, C_l] -> f_lav [E, h·w, C], f_val [E, L_t, C]; tau is unused."""

        def of_expressions(tokens: Tensor) -> Tensor:
            return tokens_of_expressions(tokens, expr_offsets, f_l.shape[0])

        z_l = self.W_l(f_l)
        k = attention_over_words(of_expressions(F.relu(self.V_1(f_v))), z_l, word_mask, self.impl)
        a = torch.tanh(self.W_q(k) + of_expressions(self.W_v(F.relu(self.V_2(f_v)))))
        o = self._related(a, of_expressions(F.relu(self.V_3(f_v))), grid)
        fused = F.relu(self.join(torch.cat([o, k], dim=2))) + of_expressions(F.relu(self.V_4(f_v)))
        return F.relu(self.out(self._with_context(fused, grid))), z_l

    def _related(self, a: Tensor, v: Tensor, grid: tuple[int, int]) -> Tensor:
        """softmax(P (A W_a)ᵀ / √C) V over the pixels; [E, h·w, C] twice -> [E, h·w, C]."""
        key = self.W_a(a)
        places = sine_positions(*grid, a.shape[2], device=key.device, dtype=key.dtype).flatten(0, 1)
        query, key, value = (x[:, :, None] for x in (places.expand_as(key), key, v))
        return multihead_attention(query, key, value, impl=self.impl)[:, :, 0]

    def _with_context(self, fused: Tensor, grid: tuple[int, int]) -> Tensor:
        """[E, h·w, C] -> [E, h·w, C + 4 (C/2)]: F and the output of each dilated convolution."""
        tokens = fused.unflatten(1, grid)
        levels = [tokens, *(on_map(convolution, tokens) for convolution in self.context)]
        return torch.cat(levels, dim=3).flatten(1, 2)
