"""The whole model, from frozen features to a mask."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from maris_fast.config import ModelSettings
from maris_fast.errors import ConfigError
from maris_fast.kernels import UnsupportedError
from maris_fast.kernels.mutual_attention import tokens_of_expressions
from maris_fast.model import parts
from maris_fast.model.ablations.product_guidance import words_into_pixels
from maris_fast.model.layers import MLP
from maris_fast.model.positions import sine_positions
from maris_fast.model.segmentation import Segmentation


class Maris(nn.Module):
    """MARIS on cached features: everything that trains, and nothing that is frozen.

    Args:
        settings: every choice inside the model.
        visual_channels: C_v, width of SAM's features.
        text_channels: C', width of CLIP's word features.

    Attributes:
        tau: threshold of eq. 4's gate; a schedule may set it between steps without recompilation.
    """

    def __init__(self, settings: ModelSettings, visual_channels: int, text_channels: int) -> None:
        super().__init__()
        C = settings.channels
        self.settings = settings
        self.visual_channels = visual_channels
        self.text_channels = text_channels
        # Neither a parameter nor a buffer: it stays on the CPU, and belongs to the schedule.
        self._tau = torch.tensor(settings.tau, dtype=torch.float64, device="cpu")
        self.feature_enhancement = parts.enhancement(settings, visual_channels)
        # Without MA blocks (the paper's ablation) the decoder still needs words of width C.
        self.project_words = None if settings.ma_blocks else nn.Linear(text_channels, C, bias=False)
        self.ma_blocks = parts.fusion_blocks(settings, text_channels)
        self.mask_decoder = parts.decoder(settings)
        self.no_target = MLP(C, C, 1) if settings.no_target else None

    @property
    def tau(self) -> float:
        return float(self._tau.item())

    @tau.setter
    def tau(self, value: float) -> None:
        self._tau.fill_(value)

    def forward(
        self, features: Sequence[Tensor], words: Tensor, word_mask: Tensor, expr_offsets: Tensor
    ) -> Segmentation:
        """Logits [E, 4h, 4w] of E expressions about I images; a pixel belongs to the mask where > 0.

        Args:
            features: F_v1, F_v2, F_v3, shallow to deep, each [I, h, w, C_v].
            words: F_l [E, L_t, C'], expressions in the order of their images.
            word_mask: bool [E, L_t], True for a real word.
            expr_offsets: int32 [I + 1], expressions expr_offsets[i] to expr_offsets[i + 1] refer to image i.

        Raises:
            ConfigError: an implementation named in the settings does not support these inputs or this device.
        """
        try:
            return self._segment(features, words, word_mask, expr_offsets)
        except UnsupportedError as error:
            names = ("mutual_attention_impl", "attention_impl", "cross_attention_impl")
            named = ", ".join(f"model.{name} = {getattr(self.settings, name)}" for name in names)
            raise ConfigError(f"{error}; the settings are {named}") from error

    def _segment(
        self, features: Sequence[Tensor], words: Tensor, word_mask: Tensor, expr_offsets: Tensor
    ) -> Segmentation:
        f_v, grid = self.visual_tokens(features)
        return self.of_tokens(f_v, grid, words, word_mask, expr_offsets)

    def of_tokens(
        self,
        f_v: Tensor,
        grid: tuple[int, int],
        words: Tensor,
        word_mask: Tensor,
        expr_offsets: Tensor | None,
    ) -> Segmentation:
        """``forward`` from F_v [I, h·w, C] and its grid on; expr_offsets None: one expression per image."""
        f_lav, f_val = self.mutual_aware(f_v, words, word_mask, expr_offsets, grid)
        if self.settings.linguistic_guidance == "product":
            f_lav, f_val, word_mask = words_into_pixels(f_lav, f_val, word_mask)
        logits, f_m = self.mask_decoder(f_lav, f_val, word_mask, grid)
        return Segmentation(logits, None if self.no_target is None else self.no_target(f_m)[:, 0])

    def visual_tokens(self, features: Sequence[Tensor]) -> tuple[Tensor, tuple[int, int]]:
        """F_v [I, h·w, C] of eq. 2, and its grid (h, w)."""
        f_v = self.feature_enhancement(features)
        grid = (f_v.shape[1], f_v.shape[2])
        if self.settings.feature_positions == "sine":
            f_v = f_v + sine_positions(*grid, f_v.shape[3], device=f_v.device, dtype=f_v.dtype)
        return f_v.flatten(1, 2), grid

    def mutual_aware(
        self,
        f_v: Tensor,
        f_l: Tensor,
        word_mask: Tensor,
        expr_offsets: Tensor | None,
        grid: tuple[int, int],
    ) -> tuple[Tensor, Tensor]:
        """f_v [I, L_v, C], f_l [E, L_t, C'] through all MA blocks -> f_lav [E, L_v, C], f_val [E, L_t, C]."""
        if self.project_words is not None:
            return tokens_of_expressions(f_v, expr_offsets, f_l.shape[0]), self.project_words(f_l)
        # The first block shares an image's tokens between its expressions; in later blocks each has its own.
        groups = expr_offsets
        for block in self.ma_blocks:
            f_v, f_l = block(f_v, f_l, word_mask, self._tau, groups, grid)
            groups = None
        return f_v, f_l
