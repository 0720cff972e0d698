"""Every choice inside the model; where the paper is silent, the default is the project's decision."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from maris_fast.config.base import MOST_BLOCKS, MOST_CHANNELS, Settings

Keep = Literal["relevant", "irrelevant", "all"]
Norm = Literal["none", "pre", "post"]
Positions = Literal["none", "sine"]
Enhancement = Literal["maris", "last", "vit_det"]
Fusion = Literal["mutual", "transformer", "spatial_dynamic", "bidirectional"]


class ModelSettings(Settings):
    """MARIS (eqs. 1-8), and what its ablations put in a part's place (docs/ablations.md).

    The widths of the frozen features are not here: they come from the cache.
    """

    channels: int = Field(256, gt=0, le=MOST_CHANNELS, description="C, the width of every trained token")
    heads: int = Field(8, gt=0, description="attention heads in the mask decoder")
    ma_blocks: int = Field(
        2,
        ge=0,
        le=MOST_BLOCKS,
        description="blocks of mutual-aware attention, or of another fusion, in sequence; 0: none",
    )
    decoder_blocks: int = Field(
        2, ge=1, le=MOST_BLOCKS, description="mask decoder blocks in sequence (eqs. 6-8)"
    )

    enhancement: Enhancement = Field(
        "maris", description="of SAM's maps: eqs. 1-2, one linear layer on the last map, or ViT-Det's pyramid"
    )
    fusion: Fusion = Field(
        "mutual",
        description="of image and words: eqs. 3-5, or what ReSTR, VLT and BRINet have in their place",
    )
    decoder: Literal["maris", "sam"] = Field("maris", description="eqs. 6-8, or SAM's two-way decoder")
    token_to_image: bool = Field(
        False, description="tokens look at the image in each decoder block, as in SAM's; before eq. 8"
    )
    linguistic_guidance: Literal["explicit", "product"] = Field(
        "explicit", description="the decoder reads F_val, or no words but F_lav times their mean"
    )
    no_target: bool = Field(False, description="an output that says whether there is nothing to segment")

    keep: Keep = Field(
        "relevant",
        description="pairs that pass eq. 4's gate, which only fusion: mutual has; 'irrelevant' is as printed",
    )
    tau: float = Field(0.5, ge=0, lt=1, description="threshold of eq. 4; 0 keeps every pair")
    # Weights without these in their header were trained on the equations as printed: the defaults stay so.
    language_norm: Literal["none", "columns"] = Field(
        "none",
        description="of what words gather in eq. 5: Aᵀ Z_v as printed, or divided by the sums of A's "
        "columns, a mean of pixels; of fusion: mutual, as are the next two",
    )
    empty_rows: Literal["none", "all"] = Field(
        "none", description="words that a pixel attends to where the gate of eq. 4 leaves it none"
    )
    score_scale: Literal["none", "channels"] = Field(
        "none", description="of S in eqs. 3 and 4: Z_v Z_lᵀ as printed, or Z_v Z_lᵀ / √C"
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
        0.0, ge=0, le=64, description="hidden width over C of a feed-forward; 0: none"
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
        description="of pixels to words (eq. 8): as written, with attention_impl, or projections folded into "
        "the words, in plain PyTorch or in one kernel",
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
        """Nothing that SAM's decoder settles for itself is asked of it."""
        own = {
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
    """L = focal + dice (eq. 9), both means over pixels, then over expressions; perhaps plus no-target."""

    focal_weight: float = Field(1.0, ge=0)
    dice_weight: float = Field(1.0, ge=0)
    no_target_weight: float = Field(
        0.1, ge=0, description="of the no-target output's cross-entropy, where there is one; 0.1 is ReLA's"
    )
    focal_alpha: float = Field(0.25, ge=0, le=1)
    focal_gamma: float = Field(2.0, ge=0)
