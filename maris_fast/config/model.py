"""Settings of the model; where the paper does not specify one, the default is the project's decision."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from maris_fast.config.base import MOST_BLOCKS, MOST_CHANNELS, Settings

Keep = Literal["relevant", "irrelevant", "all"]
Norm = Literal["none", "pre", "post"]
Positions = Literal["none", "sine"]
Enhancement = Literal["maris", "last", "vit_det"]
Fusion = Literal["mutual", "transformer", "spatial_dynamic", "bidirectional"]


READING = ("keep", "language_norm", "empty_rows", "score_scale", "visual_center")
"""The settings that choose a reading of eqs. 3-5; without effect if another fusion replaces them."""


class ModelSettings(Settings):
    """MARIS (eqs. 1-8), and the replacements of its parts in ablations (docs/ablations.md).

    The widths of the frozen features are not settings: they come from the cache.
    """

    channels: int = Field(256, gt=0, le=MOST_CHANNELS, description="C, the width of every trained token")
    heads: int = Field(8, gt=0, description="attention heads in the mask decoder")
    ma_blocks: int = Field(
        2,
        ge=0,
        le=MOST_BLOCKS,
        description="number of mutual-aware attention blocks, or of another fusion's; 0: none",
    )
    decoder_blocks: int = Field(
        2, ge=1, le=MOST_BLOCKS, description="number of mask decoder blocks (eqs. 6-8)"
    )

    enhancement: Enhancement = Field(
        "maris",
        description="feature enhancement: eqs. 1-2, a linear layer on SAM's last map, or ViT-Det's pyramid",
    )
    fusion: Fusion = Field(
        "mutual",
        description="fusion of image and words: eqs. 3-5, or that of ReSTR, VLT or BRINet",
    )
    decoder: Literal["maris", "sam"] = Field(
        "maris", description="mask decoder: eqs. 6-8, or SAM's two-way decoder"
    )
    decoder_self_attention: Literal["full", "pooled"] = Field(
        "full",
        description="keys and values of visual tokens in eq. 6: full (all of them, as printed), or pooled "
        "2 × 2 on the grid, a quarter as many",
    )
    token_to_image: bool = Field(
        False,
        description="add attention of tokens to the image before eq. 8 in each decoder block, as SAM has",
    )
    linguistic_guidance: Literal["explicit", "product"] = Field(
        "explicit",
        description="the decoder reads F_val (explicit), or only F_lav times the mean of F_val (product)",
    )
    no_target: bool = Field(
        False, description="add an output that predicts that the expression refers to nothing"
    )

    keep: Keep = Field(
        "relevant",
        description="pairs that eq. 4's gate keeps; irrelevant: as printed; only with fusion: mutual",
    )
    tau: float = Field(0.5, ge=0, lt=1, description="threshold of eq. 4; 0 keeps every pair")
    # Weights whose header lacks these were trained on the equations as printed: the defaults must stay so.
    language_norm: Literal["none", "columns"] = Field(
        "none",
        description="eq. 5 for words: none (Aᵀ Z_v as printed), or divided by A's column sums, a "
        "mean over pixels; only with fusion: mutual, as the next two",
    )
    empty_rows: Literal["none", "all"] = Field(
        "none", description="words that a pixel attends to if the gate of eq. 4 keeps none of its pairs"
    )
    score_scale: Literal["none", "channels"] = Field(
        "none", description="scale of S in eqs. 3 and 4: none (Z_v Z_lᵀ as printed), or Z_v Z_lᵀ / √C"
    )
    visual_center: Literal["none", "pixels"] = Field(
        "none",
        description="Z_v of eq. 3: none (F_v W_v as printed), or pixels (F_v W_v minus its mean over pixels)",
    )

    input_norm: Literal["none", "layer"] = Field(
        "none", description="parameter-free LayerNorm over the channels of each frozen feature map"
    )
    feature_positions: Positions = Field("none", description="positions added to F_v after eq. 2")
    decoder_positions: Positions = Field(
        "none", description="positions added to visual queries and keys in eqs. 6, 8"
    )
    decoder_norm: Norm = Field("none", description="LayerNorm around eqs. 6-8; as printed there is none")
    decoder_feed_forward: float = Field(
        0.0,
        ge=0,
        le=64,
        description="hidden width of a feed-forward layer in each decoder block, as a multiple of C; 0: none",
    )

    mutual_attention_impl: Literal["auto", "triton", "reference"] = "auto"
    attention_impl: Literal[
        "auto",
        "xformers",
        "sdpa",
        "sdpa-flash",
        "sdpa-cudnn",
        "sdpa-efficient",
        "sdpa-flash3",
        "sdpa-flash4",
        "reference",
    ] = "auto"
    cross_attention_impl: Literal["auto", "projected", "folded", "triton"] = Field(
        "auto",
        description="attention of pixels to words (eq. 8): projected uses attention_impl; folded and triton "
        "fold the projections into the words, in plain PyTorch or in one kernel",
    )

    @model_validator(mode="after")
    def _heads_divide_channels(self) -> ModelSettings:
        if self.channels % self.heads:
            raise ValueError(
                f"channels = {self.channels} is not a multiple of heads = {self.heads}; change one of them"
            )
        if self.channels % 4:
            raise ValueError(
                f"channels = {self.channels} is not a multiple of 4, which upsampling to C/4 needs"
            )
        return self

    @model_validator(mode="after")
    def _parts_make_one_model(self) -> ModelSettings:
        if self.fusion != "mutual" and not self.ma_blocks:
            raise ValueError(
                f"fusion = {self.fusion} asks for a fusion and ma_blocks = 0 for none; set ma_blocks to 1 or "
                "more, or leave fusion at mutual"
            )
        if self.decoder == "sam":
            self._sam_decoder_is_its_own()
        return self

    def _sam_decoder_is_its_own(self) -> None:
        """Reject settings of what SAM's decoder defines itself, and widths that it cannot split."""
        own = {
            "decoder_self_attention": "has no self-attention of visual tokens",
            "token_to_image": "has this attention already",
            "linguistic_guidance": "takes the words as its prompt",
            "decoder_norm": "has norms of its own",
            "decoder_positions": "has positions of its own",
            "decoder_feed_forward": "has a feed-forward of its own",
        }
        for name, why in own.items():
            default = type(self).model_fields[name].default
            if getattr(self, name) != default:
                raise ValueError(
                    f"decoder = sam and {name} = {getattr(self, name)}: SAM's decoder {why}; set {name} to "
                    f"{str(default).lower()}, or decoder to maris"
                )
        if self.channels % 8 or self.channels // 2 % self.heads:
            raise ValueError(
                f"decoder = sam upsamples to C/8 and attends in C/2: channels = {self.channels} must be a "
                f"multiple of 8, and half of it one of heads = {self.heads}; change one of them"
            )


class LossSettings(Settings):
    """L = focal + dice (eq. 9), both means over pixels, then over expressions; optionally plus no-target."""

    focal_weight: float = Field(1.0, ge=0)
    dice_weight: float = Field(1.0, ge=0)
    no_target_weight: float = Field(
        0.1, ge=0, description="weight of the no-target output's cross-entropy; 0.1 as in ReLA"
    )
    focal_alpha: float = Field(0.25, ge=0, le=1)
    focal_gamma: float = Field(2.0, ge=0)
