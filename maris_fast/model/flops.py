"""FLOPs of the model, by formula: the numerator of MFU.

Matrix products and convolutions are counted, at 2 FLOPs per multiply-add. Elementwise work (norms, softmax,
GELU, resizing, the loss) and recomputation are not. Where the same products can be taken in two orders, the
cheaper one is counted, whichever runs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from maris_fast.config import ModelSettings
from maris_fast.kernels.cross_attention import fewer_products
from maris_fast.model.pooling import decoder_keys

# Passes of a product y = x w: forward, dw and dx; without dx where x is frozen and needs no gradient.
_TRAINED_INPUT, _FROZEN_INPUT = 3, 2


@dataclass(frozen=True)
class StepFlops:
    """FLOPs of forward and backward; those of an image are shared by its expressions."""

    image: int
    expression: int

    def of(self, images: int, expressions: int) -> int:
        """FLOPs of a batch."""
        return images * self.image + expressions * self.expression


def training_flops(
    settings: ModelSettings, visual_channels: int, text_channels: int, grid: tuple[int, int], words: int
) -> StepFlops:
    """FLOPs of one image and of one expression in training.

    Args:
        settings: the model's settings.
        visual_channels, text_channels: C_v and C', widths of the frozen features.
        grid: (h, w) tokens; L_v = h·w.
        words: L_t of the batch, including padding, which is computed like the rest.
    """
    L_v = grid[0] * grid[1]
    image = _ENHANCEMENT[settings.enhancement](grid, visual_channels, settings.channels)
    shared, expression = _fusion(settings, L_v, words, text_channels)
    # Without explicit guidance the decoder is given no words.
    guiding = words if settings.linguistic_guidance == "explicit" else 0
    expression += (_sam_decoder if settings.decoder == "sam" else _mask_decoder)(settings, grid, guiding)
    if settings.no_target:
        expression += _product(1, settings.channels, settings.channels) + _product(1, settings.channels, 1)
    return StepFlops(image + shared, expression)


def _feature_enhancement(grid: tuple[int, int], C_v: int, C: int) -> int:
    """Eqs. 1-2: MLPs of the three frozen maps and of the early one, two CBAs from 2C to C."""
    L_v = math.prod(grid)
    frozen = 3 * (_product(L_v, C_v, C, _FROZEN_INPUT) + _product(L_v, C, C))
    early = 2 * _product(L_v, C, C)
    return frozen + early + 2 * _product(L_v, 9 * 2 * C, C)


def _last_map(grid: tuple[int, int], C_v: int, C: int) -> int:
    return _product(math.prod(grid), C_v, C, _FROZEN_INPUT)


def _vit_det(grid: tuple[int, int], C_v: int, C: int) -> int:
    """The four levels, and one CBA from 4C to C."""
    L_v = math.prod(grid)
    half = math.ceil(grid[0] / 2) * math.ceil(grid[1] / 2)

    def lateral(pixels: int, channels_in: int, passes: int = _TRAINED_INPUT) -> int:
        return _product(pixels, channels_in, C, passes) + _product(pixels, 9 * C, C)

    doubling = _product(L_v, C_v, 4 * (C_v // 2), _FROZEN_INPUT)
    quadruple = doubling + _product(4 * L_v, C_v // 2, 4 * (C_v // 4)) + lateral(16 * L_v, C_v // 4)
    double = doubling + lateral(4 * L_v, C_v // 2)
    others = lateral(L_v, C_v, _FROZEN_INPUT) + lateral(half, C_v, _FROZEN_INPUT)
    return quadruple + double + others + _product(L_v, 9 * 4 * C, C)


_ENHANCEMENT = {"maris": _feature_enhancement, "last": _last_map, "vit_det": _vit_det}


def _fusion(settings: ModelSettings, L_v: int, L_t: int, text_channels: int) -> tuple[int, int]:
    """FLOPs per image and per expression; what needs no words, the first block computes once per image."""
    C = settings.channels
    words = _product(L_t, text_channels, C, _FROZEN_INPUT)
    if not settings.ma_blocks:
        return 0, words
    later = settings.ma_blocks - 1
    if settings.fusion == "transformer":  # only its first layer projects
        return _product(L_v, C, C), words + settings.ma_blocks * _encoder_layer(L_v + L_t, C)
    pixels, pairs = _FUSION[settings.fusion](L_v, L_t, C)
    return pixels, words + pairs + later * (pixels + _product(L_t, C, C) + pairs)


def _encoder_layer(L: int, C: int) -> int:
    """Self-attention, and a feed-forward network of hidden width 4C."""
    return _attention(L, L, C) + 2 * _product(L, C, 4 * C)


def _mutual(L_v: int, L_t: int, C: int) -> tuple[int, int]:
    """Eqs. 3-5: W_v; S, A z_l, Aᵀ z_v."""
    return _product(L_v, C, C), 3 * _product(L_v, C, L_t)


def _spatial_dynamic(L_v: int, L_t: int, C: int) -> tuple[int, int]:
    """W_v; S, A z_l."""
    return _product(L_v, C, C), 2 * _product(L_v, C, L_t)


def _bidirectional(L_v: int, L_t: int, C: int) -> tuple[int, int]:
    """V_1 to V_4 and W_v; both attentions with their projections, the join, the context, the output layer."""
    words = 2 * _product(L_v, C, L_t) + _product(L_v, C, C)
    # P in P (A W_a)ᵀ is a constant, so it needs no gradient.
    pixels = _product(L_v, C, C) + _product(L_v, C, L_v, _FROZEN_INPUT) + _product(L_v, L_v, C)
    context = 4 * _product(L_v, 9 * C, C // 2)
    joining = _product(L_v, 2 * C, C) + context + _product(L_v, C + 4 * (C // 2), C)
    return 5 * _product(L_v, C, C), words + pixels + joining


_FUSION = {"mutual": _mutual, "spatial_dynamic": _spatial_dynamic, "bidirectional": _bidirectional}


def _mask_decoder(settings: ModelSettings, grid: tuple[int, int], L_t: int) -> int:
    """Eqs. 6-8, upsampling, and the query's product with the fine map."""
    C, L_v, L_c = settings.channels, math.prod(grid), 1 + L_t
    block = (
        _attention(L_v, math.prod(decoder_keys(settings, grid)), C)
        + _attention(L_c, L_c, C)
        + _cross_attention(settings, L_v, L_c, C)
    )
    if settings.token_to_image:
        block += _attention(L_c, L_v, C)
    block += 2 * _product(L_v, C, int(C * settings.decoder_feed_forward))
    upsampling = _product(L_v, 9 * C, C // 2) + _product(4 * L_v, 9 * (C // 2), C // 4)
    query = _product(1, C, C) + _product(1, C, C // 4) + _product(1, C // 4, 4 * L_v)
    return settings.decoder_blocks * block + upsampling + query


def _sam_decoder(settings: ModelSettings, grid: tuple[int, int], L_t: int) -> int:
    """Two-way blocks at half the width between tokens and image, upsampling to C/8, the hypernetwork."""
    C, L_v, T = settings.channels, math.prod(grid), 1 + 4 + L_t
    look = _attention(T, L_v, C, C // 2)
    block = (
        _attention(T, T, C) + look + 2 * _product(T, C, 8 * C) + _cross_attention(settings, L_v, T, C // 2)
    )
    upsampling = _product(L_v, C, 4 * (C // 4)) + _product(4 * L_v, C // 4, 4 * (C // 8))
    query = 2 * _product(1, C, C) + _product(1, C, C // 8) + _product(1, C // 8, 16 * L_v)
    return settings.decoder_blocks * block + look + upsampling + query


def _attention(L_q: int, L_k: int, C: int, inner: int | None = None) -> int:
    """Projections of query and output, of key and value; Q Kᵀ and the weights' product with V.

    With a single key, the last product is elementwise.
    """
    D = inner or C
    products = 2 if L_k > 1 else 1
    return 2 * _product(L_q, C, D) + 2 * _product(L_k, C, D) + products * _product(L_q, D, L_k)


def _cross_attention(settings: ModelSettings, L_q: int, L_k: int, inner: int) -> int:
    """Pixels to words: as written, or with the projections of query and output folded into the words."""
    C, heads = settings.channels, settings.heads
    if not fewer_products(L_q, L_k, heads, inner // heads, C):
        return _attention(L_q, L_k, C, inner)
    words = 2 * _product(L_k, C, inner) + 2 * _product(L_k, inner, C)
    return words + 2 * _product(L_q, C, heads * L_k)


def _product(rows: int, inner: int, columns: int, passes: int = _TRAINED_INPUT) -> int:
    """[rows, inner] times [inner, columns], forward and backward."""
    return 2 * rows * inner * columns * passes
