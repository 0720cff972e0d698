"""The module for each part of the model: the paper's own, or an ablation's replacement."""

from __future__ import annotations

from torch import nn

from maris_fast.config import ModelSettings
from maris_fast.model.ablations.bidirectional import BidirectionalFusion
from maris_fast.model.ablations.last_map import LastMap
from maris_fast.model.ablations.sam_decoder import SamDecoder
from maris_fast.model.ablations.spatial_dynamic import SpatialDynamicFusion
from maris_fast.model.ablations.transformer import TransformerFusion
from maris_fast.model.ablations.vit_det import VitDetPyramid
from maris_fast.model.feature_enhancement import FeatureEnhancement
from maris_fast.model.mask_decoder import MaskDecoder
from maris_fast.model.mutual_aware_attention import MutualAwareAttention


def enhancement(settings: ModelSettings, visual_channels: int) -> nn.Module:
    """Three maps [I, h, w, C_v], shallow to deep -> F_v [I, h, w, C]."""
    if settings.enhancement == "last":
        return LastMap(visual_channels, settings.channels, settings.input_norm)
    if settings.enhancement == "vit_det":
        return VitDetPyramid(visual_channels, settings.channels, settings.input_norm)
    return FeatureEnhancement(visual_channels, settings.channels, settings.input_norm)


def fusion_blocks(settings: ModelSettings, text_channels: int) -> nn.ModuleList:
    """``ma_blocks`` times (f_v [I, L_v, C], f_l [E, L_t, C_l]) -> f_lav [E, L_v, C], f_val [E, L_t, C].

    Each also takes word_mask [E, L_t], tau [], expr_offsets (None: one image per expression) and the grid
    (h, w) of L_v. C_l is C' in the first block and C in the others.
    """
    return nn.ModuleList(
        _fusion_block(settings, settings.channels if block else text_channels, first=not block)
        for block in range(settings.ma_blocks)
    )


def _fusion_block(settings: ModelSettings, channels_l: int, first: bool) -> nn.Module:
    if settings.fusion == "transformer":
        return TransformerFusion(settings, channels_l if first else None)
    if settings.fusion == "spatial_dynamic":
        return SpatialDynamicFusion(settings, channels_l)
    if settings.fusion == "bidirectional":
        return BidirectionalFusion(settings, channels_l)
    return MutualAwareAttention(settings, settings.channels, channels_l)


def decoder(settings: ModelSettings) -> nn.Module:
    """f_lav [E, h·w, C], f_val [E, L_t, C], word_mask, (h, w) -> logits [E, 4h, 4w], their token [E, C]."""
    return SamDecoder(settings) if settings.decoder == "sam" else MaskDecoder(settings)
