"""Every choice inside the model; where the paper is silent, the default is the project's decision."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from maris_fast.config.base import Settings

Keep = Literal["relevant", "irrelevant", "all"]
Norm = Literal["none", "pre", "post"]
Positions = Literal["none", "sine"]


class ModelSettings(Settings):
    """MARIS (eqs. 1-8). The widths of the frozen features are not here: they come from the cache."""

    channels: int = Field(256, gt=0, description="C, the width of every trained token")
    heads: int = Field(8, gt=0, description="attention heads in the mask decoder")
    ma_blocks: int = Field(2, ge=0, description="mutual-aware attention blocks in sequence")
    decoder_blocks: int = Field(2, ge=1, description="mask decoder blocks in sequence (eqs. 6-8)")

    keep: Keep = Field(
        "relevant", description="pairs that pass eq. 4's gate; 'irrelevant' is eq. 4 as printed"
    )
    tau: float = Field(0.5, ge=0, lt=1, description="threshold of eq. 4; 0 keeps every pair")

    input_norm: Literal["none", "layer"] = Field(
        "none", description="parameter-free LayerNorm over the channels of each frozen feature map"
    )
    feature_positions: Positions = Field("none", description="positions added to F_v after eq. 2")
    decoder_positions: Positions = Field(
        "none", description="positions added to visual queries and keys in eqs. 6, 8"
    )
    decoder_norm: Norm = Field("none", description="LayerNorm around eqs. 6-8; as printed there is none")
    decoder_feed_forward: float = Field(
        0.0, ge=0, description="hidden width over C of a feed-forward; 0: none"
    )

    mutual_attention_impl: Literal["auto", "triton", "reference"] = "auto"
    attention_impl: Literal[
        "auto", "xformers", "sdpa", "sdpa-flash", "sdpa-cudnn", "sdpa-efficient", "reference"
    ] = "auto"

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


class LossSettings(Settings):
    """L = focal + dice (eq. 9), both means over pixels, then over expressions."""

    focal_weight: float = Field(1.0, ge=0)
    dice_weight: float = Field(1.0, ge=0)
    focal_alpha: float = Field(0.25, ge=0, le=1)
    focal_gamma: float = Field(2.0, ge=0)
