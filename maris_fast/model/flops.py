"""What the model has to compute, by formula: the numerator of MFU.

Counted are products of matrices and convolutions, 2 FLOPs a multiply-add. Not counted are elementwise work
(norms, softmax, GELU, resizing, the loss) and whatever an implementation computes a second time.
"""

from __future__ import annotations

from dataclasses import dataclass

from maris_fast.config import ModelSettings

# Of a product y = x w: backward computes dx and dw, or dw alone where x is frozen and needs no gradient.
_TRAINED_INPUT, _FROZEN_INPUT = 3, 2


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of forward and backward; those of an image are shared by its expressions."""

    image: int
    expression: int

    def of(self, images: int, expressions: int) -> int:
        """Of a batch."""
        return images * self.image + expressions * self.expression


def training_flops(
    settings: ModelSettings, visual_channels: int, text_channels: int, grid: tuple[int, int], words: int
) -> StepFlops:
    """FLOPs of one image and of one expression in training.

    Args:
        settings: of the model.
        visual_channels, text_channels: C_v and C', widths of the frozen features.
        grid: (h, w) tokens; L_v = h·w.
        words: L_t of the batch, padding included: it is computed like the rest.
    """
    L_v = grid[0] * grid[1]
    image = _feature_enhancement(L_v, visual_channels, settings.channels)
    expression = _mask_decoder(settings, L_v, words)
    project_image, mutual = _mutual_aware(settings, L_v, words, text_channels)
    return StepFlops(image + project_image, expression + mutual)


def _feature_enhancement(L_v: int, C_v: int, C: int) -> int:
    """Eqs. 1-2: MLPs of the three frozen maps and of the early one, two CBA from 2C to C."""
    frozen = 3 * (_product(L_v, C_v, C, _FROZEN_INPUT) + _product(L_v, C, C))
    early = 2 * _product(L_v, C, C)
    return frozen + early + 2 * _product(L_v, 9 * 2 * C, C)


def _mutual_aware(settings: ModelSettings, L_v: int, L_t: int, text_channels: int) -> tuple[int, int]:
    """Eqs. 3-5, for an image and for an expression: the first block's W_v works once an image."""
    C = settings.channels
    words = _product(L_t, text_channels, C, _FROZEN_INPUT)
    if not settings.ma_blocks:
        return 0, words
    attention = 3 * _product(L_v, C, L_t)  # S, A z_l, Aᵀ z_v
    later = _product(L_v, C, C) + _product(L_t, C, C) + attention
    return _product(L_v, C, C), words + attention + (settings.ma_blocks - 1) * later


def _mask_decoder(settings: ModelSettings, L_v: int, L_t: int) -> int:
    """Eqs. 6-8, upsampling, and the query's product with the fine map."""
    C, L_c = settings.channels, 1 + L_t
    block = _attention(L_v, L_v, C) + _attention(L_c, L_c, C) + _attention(L_v, L_c, C)
    block += 2 * _product(L_v, C, int(C * settings.decoder_feed_forward))
    upsampling = _product(L_v, 9 * C, C // 2) + _product(4 * L_v, 9 * (C // 2), C // 4)
    query = _product(1, C, C) + _product(1, C, C // 4) + _product(1, C // 4, 16 * L_v)
    return settings.decoder_blocks * block + upsampling + query


def _attention(L_q: int, L_k: int, C: int) -> int:
    """Projections of query and result, of key and value; Q Kᵀ and the weights' product with V."""
    return 2 * _product(L_q, C, C) + 2 * _product(L_k, C, C) + 2 * _product(L_q, C, L_k)


def _product(rows: int, inner: int, columns: int, passes: int = _TRAINED_INPUT) -> int:
    """[rows, inner] times [inner, columns], forward and backward."""
    return 2 * rows * inner * columns * passes
