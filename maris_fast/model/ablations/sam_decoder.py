"""#3 and Table 1's SAM: the decoder of Segment Anything (Kirillov et al. 2023), with words as its prompt."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from maris_fast.config import ModelSettings
from maris_fast.model.layers import CrossAttention, MapLayerNorm, MultiHeadAttention
from maris_fast.model.positions import sine_positions

MASK_TOKENS = 4
"""SAM's single mask and its three for ambiguous prompts; the IoU token precedes them."""
FEED_FORWARD = 8
"""Hidden width divided by C: 2048 / 256 in SAM."""


class TwoWayBlock(nn.Module):
    """Tokens among themselves, tokens to image, feed-forward, image to tokens; a LayerNorm after each.

    Only the first block's self-attention has no positions and no residual.
    """

    def __init__(self, settings: ModelSettings, first: bool) -> None:
        super().__init__()
        C = settings.channels
        self.first = first
        self.self_attention = MultiHeadAttention(C, settings.heads, settings.attention_impl)
        self.norm_self = nn.LayerNorm(C)
        self.token_to_image = _token_to_image(settings)
        self.norm_token_to_image = nn.LayerNorm(C)
        self.feed_forward = nn.Sequential(
            nn.Linear(C, FEED_FORWARD * C), nn.ReLU(), nn.Linear(FEED_FORWARD * C, C)
        )
        self.norm_feed_forward = nn.LayerNorm(C)
        # At half the width, as in SAM; so is the tokens' attention to the image.
        self.image_to_token = CrossAttention(
            C, settings.heads, settings.attention_impl, settings.cross_attention_impl, inner=C // 2
        )
        self.norm_image_to_token = nn.LayerNorm(C)

    def forward(
        self, image: Tensor, tokens: Tensor, place: Tensor, prompt: Tensor, token_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """image [E, L_v, C], tokens [E, T, C] -> the same two, updated.

        Args:
            place: positions [L_v, C], added to the image in queries and keys.
            prompt: the tokens before the first block, added to the tokens in queries and keys.
            token_mask: bool [E, T], False for a padded word.
        """
        if self.first:
            tokens = self.norm_self(self.self_attention(tokens, tokens, tokens, token_mask))
        else:
            x = tokens + prompt
            tokens = self.norm_self(tokens + self.self_attention(x, x, tokens, token_mask))
        seen = self.token_to_image(tokens + prompt, image + place, image)
        tokens = self.norm_token_to_image(tokens + seen)
        tokens = self.norm_feed_forward(tokens + self.feed_forward(tokens))
        read = self.image_to_token(image + place, tokens + prompt, tokens, token_mask)
        return self.norm_image_to_token(image + read), tokens


class SamDecoder(nn.Module):
    """[IoU token; 4 mask tokens; f_val] and f_lav through two-way blocks; mask 0, upsampled by 4.

    Only what mask 0 needs is built: the other masks' hypernetworks and the IoU head would have no loss.
    """

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        C = settings.channels
        self.output_tokens = nn.Parameter(torch.randn(1, 1 + MASK_TOKENS, C))
        self.blocks = nn.ModuleList(
            TwoWayBlock(settings, first=not block) for block in range(settings.decoder_blocks)
        )
        self.last_token_to_image = _token_to_image(settings)
        self.norm_last = nn.LayerNorm(C)
        self.upsampling = nn.Sequential(
            nn.ConvTranspose2d(C, C // 4, kernel_size=2, stride=2),
            MapLayerNorm(C // 4),
            nn.GELU(),
            nn.ConvTranspose2d(C // 4, C // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.hypernetwork = nn.Sequential(
            nn.Linear(C, C), nn.ReLU(), nn.Linear(C, C), nn.ReLU(), nn.Linear(C, C // 8)
        )

    def forward(
        self, f_lav: Tensor, f_val: Tensor, word_mask: Tensor, grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """f_lav [E, h·w, C], f_val [E, L_t, C], word_mask -> logits [E, 4h, 4w], their token [E, C]."""
        output = self.output_tokens.to(f_val.dtype).expand(f_val.shape[0], -1, -1)
        prompt = torch.cat([output, f_val], dim=1)
        token_mask = torch.cat([word_mask.new_ones(output.shape[:2]), word_mask], dim=1)
        place = sine_positions(*grid, f_lav.shape[2], device=f_lav.device, dtype=f_lav.dtype).flatten(0, 1)
        image, tokens = f_lav, prompt
        for block in self.blocks:
            image, tokens = block(image, tokens, place, prompt, token_mask)
        seen = self.last_token_to_image(tokens + prompt, image + place, image)
        mask_token = self.norm_last(tokens + seen)[:, 1]
        fine = self.upsampling(image.transpose(1, 2).unflatten(2, grid))
        return torch.einsum("ec,echw->ehw", self.hypernetwork(mask_token), fine), mask_token


def _token_to_image(settings: ModelSettings) -> MultiHeadAttention:
    C = settings.channels
    return MultiHeadAttention(C, settings.heads, settings.attention_impl, inner=C // 2)
