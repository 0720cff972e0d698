"""The mutual-aware attention (MA) block, eqs. 3-5, around the fused operation."""

from __future__ import annotations

from torch import Tensor, nn

from maris_fast.config import ModelSettings
from maris_fast.kernels import Reading, mutual_attention, mutual_attention_weights


def reading_of(settings: ModelSettings) -> Reading:
    """The reading of eqs. 3-5 that the settings choose."""
    return Reading(settings.language_norm, settings.empty_rows, settings.score_scale)


class MutualAwareAttention(nn.Module):
    """Z_v = F_v W_v, Z_l = F_l W_l, then both directions of attention from one matrix A.

    Pixels share a mean, since F_v is the output of a GELU, so words that gather means of pixels gather nearly
    the same vector. ``visual_center: pixels`` subtracts it from Z_v.
    """

    def __init__(self, settings: ModelSettings, channels_v: int, channels_l: int) -> None:
        super().__init__()
        self.keep = settings.keep
        self.reading = reading_of(settings)
        self.impl = settings.mutual_attention_impl
        self.centered = settings.visual_center == "pixels"
        self.W_v = nn.Linear(channels_v, settings.channels, bias=False)
        self.W_l = nn.Linear(channels_l, settings.channels, bias=False)
        self.norm_v = nn.LayerNorm(settings.channels)
        self.norm_l = nn.LayerNorm(settings.channels)

    def z_v(self, f_v: Tensor) -> Tensor:
        """Z_v of eq. 3: [I, L_v, C_v] -> [I, L_v, C]."""
        z_v: Tensor = self.W_v(f_v)
        return z_v - z_v.mean(1, keepdim=True) if self.centered else z_v

    def forward(
        self,
        f_v: Tensor,
        f_l: Tensor,
        word_mask: Tensor,
        tau: Tensor,
        expr_offsets: Tensor | None,
        grid: tuple[int, int] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """f_v [I, L_v, C_v], f_l [E, L_t, C_l] -> f_lav [E, L_v, C], f_val [E, L_t, C]; grid is unused."""
        return mutual_attention(
            self.z_v(f_v),
            self.W_l(f_l),
            self.norm_v.weight,
            self.norm_v.bias,
            self.norm_l.weight,
            self.norm_l.bias,
            tau=tau,
            keep=self.keep,
            word_mask=word_mask,
            expr_offsets=expr_offsets,
            eps=self.norm_v.eps,
            reading=self.reading,
            impl=self.impl,
        )

    def weights(
        self,
        f_v: Tensor,
        f_l: Tensor,
        word_mask: Tensor,
        tau: Tensor,
        expr_offsets: Tensor | None,
        grid: tuple[int, int] | None = None,
    ) -> Tensor:
        """A of eqs. 3-4 [E, L_v, L_t], fp32, for the inputs of ``forward``; only for plots: it holds A."""
        return mutual_attention_weights(
            self.z_v(f_v),
            self.W_l(f_l),
            tau=tau,
            keep=self.keep,
            word_mask=word_mask,
            expr_offsets=expr_offsets,
            reading=self.reading,
        )
