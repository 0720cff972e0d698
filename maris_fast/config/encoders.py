"""Which frozen encoders make the features, and where their weights come from."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from maris_fast.config.base import MOST_PIXELS_A_SIDE, Seed, Settings
from maris_fast.config.places import CachePlace

RANDOM = "random"

FeatureDtype = Literal["int8", "fp8", "bf16"]


class SamSettings(Settings):
    """SAM's image encoder; the features are the outputs of its last three global attention blocks."""

    arch: Literal["vit_h", "vit_l", "vit_b", "vit_tiny"] = "vit_h"
    weights: str = Field(
        description="path of SAM's .pth checkpoint, or 'random', which caches, weights and scores then record"
    )
    image_size: int | None = Field(
        None,
        gt=0,
        le=MOST_PIXELS_A_SIDE,
        description="longest side of the resized image in pixels; None: 1024 (vit_tiny: 256)",
    )
    seed: Seed = Field(0, description="of random weights")
    attention: Literal["sdpa", "reference"] = Field(
        "sdpa",
        description="sdpa: PyTorch's fused attention; reference: segment-anything's own code",
    )


class TextSettings(Settings):
    """CLIP's text tower by open_clip; the features are its tokens after the last norm, before pooling."""

    arch: str = Field("ViT-L-14", description="open_clip model name, or 'tiny'")
    weights: str = Field("openai", description="open_clip tag, path of a checkpoint, or 'random'")
    max_words: int = Field(
        32, gt=0, le=4096, description="largest L_t; a longer expression is cut, and counted"
    )
    seed: Seed = Field(0, description="of random weights")


class EncoderSettings(Settings):
    sam: SamSettings
    text: TextSettings = TextSettings()

    @property
    def random(self) -> list[str]:
        """Names of the encoders that run on random weights; empty for a real model."""
        return [name for name, part in (("sam", self.sam), ("text", self.text)) if part.weights == RANDOM]


class CacheSettings(Settings):
    """How features are written to shards."""

    shipped = "data_shards/configs"

    encoders: EncoderSettings
    images: CachePlace | None = Field(
        None,
        description="folder or address (s3://, gs://, hf://, https://) of the images, which image paths of "
        "the data set are below; None: where they were imported from",
    )
    feature_dtype: FeatureDtype = Field(
        "int8",
        description="type of stored features; int8 and fp8 (e4m3) with one scale for each channel and image",
    )
    shard_bytes: int = Field(
        2 << 30,
        gt=0,
        description="target size of a shard: it ends with the image that brings it to this size",
    )
    batch_size: int = Field(4, gt=0, description="images in a batch of the image encoder")
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="auto: bf16 on GPUs that compute in it (capability 8.0 or newer), else fp32"
    )
