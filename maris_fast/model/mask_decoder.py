"""The mask decoder, eqs. 6-8, and the upsampling of its tokens to a mask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from maris_fast.config import ModelSettings
from maris_fast.model.layers import CBA, MLP, CrossAttention, MultiHeadAttention
from maris_fast.model.pooling import pooled
from maris_fast.model.positions import sine_positions


class Residual(nn.Module):
    """x + f(x), as printed in eqs. 6-8; with ``norm``, LayerNorm before f or after the sum."""

    def __init__(self, channels: int, norm: str) -> None:
        super().__init__()
        self.before = nn.LayerNorm(channels) if norm == "pre" else nn.Identity()
        self.after = nn.LayerNorm(channels) if norm == "post" else nn.Identity()

    def forward(self, x: Tensor, f: Callable[[Tensor], Tensor]) -> Tensor:
        return self.after(x + f(self.before(x)))


class DecoderBlock(nn.Module):
    """One block of eqs. 6-8; the next block takes its two outputs.

    With ``decoder_self_attention: pooled``, eq. 6 is F̂_lav = MHCA(F_lav, P(F_lav), P(F_lav)) + F_lav, where
    P averages 2 × 2 tokens; keys are averaged with their positions.
    With ``token_to_image`` (TOI-A, the paper's #9), tokens attend to the image before eq. 8, as in SAM.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        C, norm = settings.channels, settings.decoder_norm

        def attention() -> MultiHeadAttention:
            return MultiHeadAttention(C, settings.heads, settings.attention_impl)

        self.self_lav, self.residual_lav = attention(), Residual(C, norm)
        self.pooled = settings.decoder_self_attention == "pooled"
        self.self_c, self.residual_c = attention(), Residual(C, norm)
        if settings.token_to_image:
            self.tokens_look, self.residual_tokens_look = attention(), Residual(C, norm)
        self.token_to_image = settings.token_to_image
        self.cross = CrossAttention(C, settings.heads, settings.attention_impl, settings.cross_attention_impl)
        self.residual_cross = Residual(C, norm)
        hidden = int(C * settings.decoder_feed_forward)
        self.feed_forward = MLP(C, hidden, C) if hidden else None
        self.residual_feed_forward = Residual(C, norm)

    def forward(
        self,
        f_lav: Tensor,
        f_c: Tensor,
        token_mask: Tensor,
        position: Tensor | float,
        grid: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """f_lav [E, h·w, C], f_c [E, 1 + L_t, C], token_mask bool [E, 1 + L_t] -> the same two, updated."""

        def look(x: Tensor) -> Tensor:
            if self.pooled:
                return self.self_lav(x + position, pooled(x + position, grid), pooled(x, grid))
            return self.self_lav(x + position, x + position, x)

        f_lav = self.residual_lav(f_lav, look)
        f_c = self.residual_c(f_c, lambda x: self.self_c(x, x, x, token_mask))
        if self.token_to_image:
            seen, at = f_lav, f_lav + position
            f_c = self.residual_tokens_look(f_c, lambda x: self.tokens_look(x, at, seen))
        f_lav = self.residual_cross(f_lav, lambda x: self.cross(x + position, f_c, f_c, token_mask))
        if self.feed_forward is not None:
            f_lav = self.residual_feed_forward(f_lav, self.feed_forward)
        return f_lav, f_c


class Doubling(nn.Upsample):
    """Bilinear ×2 of maps, [N, C, h, w] -> [N, C, 2h, 2w]."""

    def __init__(self) -> None:
        super().__init__(scale_factor=2, mode="bilinear", align_corners=False)


class Upsampling(nn.Sequential):
    """Two blocks of convolution and ×2, without the last ×2: [E, C, h, w] -> [E, C/4, 2h, 2w]."""

    def __init__(self, channels: int) -> None:
        super().__init__(CBA(channels, channels // 2), Doubling(), CBA(channels // 2, channels // 4))


class MaskDecoder(nn.Module):
    """A single query token F_m, concatenated with f_val, decodes f_lav into a mask."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        C = settings.channels
        self.positions = settings.decoder_positions
        self.query = nn.Parameter(torch.randn(1, 1, C))
        self.blocks = nn.ModuleList(DecoderBlock(settings) for _ in range(settings.decoder_blocks))
        self.upsampling = Upsampling(C)
        self.query_mlp = MLP(C, C, C // 4)
        self.doubling = Doubling()

    def forward(
        self, f_lav: Tensor, f_val: Tensor, word_mask: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """f_lav [E, h·w, C], f_val [E, L_t, C], word_mask bool [E, L_t] -> logits [E, 4h, 4w], F_m [E, C]."""
        f_c = torch.cat([self.query.to(f_val.dtype).expand(f_val.shape[0], -1, -1), f_val], dim=1)
        token_mask = torch.cat([word_mask.new_ones(f_val.shape[0], 1), word_mask], dim=1)
        position = self._position(f_lav, grid)
        for block in self.blocks:
            f_lav, f_c = block(f_lav, f_c, token_mask, position, grid)
        fine = self.upsampling(f_lav.transpose(1, 2).unflatten(2, grid))
        f_m = f_c[:, 0]
        coarse = torch.einsum("ec,echw->ehw", self.query_mlp(f_m), fine)[:, None]
        # The last ×2 treats all channels alike: after their sum it resizes one map instead of C/4 maps.
        return self.doubling(coarse.to(torch.promote_types(coarse.dtype, torch.float32)))[:, 0], f_m

    def _position(self, f_lav: Tensor, grid: tuple[int, int]) -> Tensor | float:
        if self.positions == "none":
            return 0.0
        return sine_positions(*grid, f_lav.shape[2], device=f_lav.device, dtype=f_lav.dtype).flatten(0, 1)
