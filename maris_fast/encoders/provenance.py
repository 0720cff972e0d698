"""What made the features: written into the cache's manifest and carried into every checkpoint."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class _Provenance(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderProvenance(_Provenance):
    """Of one encoder. Features of two encoders are interchangeable when their provenance is equal."""

    library: str
    arch: str
    weights: str
    """Name of the weights (file name or tag), or ``random``."""
    sha256: str | None
    """Of the weights' file; None for random weights."""
    seed: int | None
    """Of random weights; None for a file."""
    channels: int

    @property
    def random(self) -> bool:
        return self.sha256 is None


class SamProvenance(EncoderProvenance):
    image_size: int
    blocks: tuple[int, int, int]
    """Indices of the blocks whose outputs are the three levels."""


class TextProvenance(EncoderProvenance):
    quick_gelu: bool
    context_length: int
    max_words: int


class EncodersProvenance(_Provenance):
    sam: SamProvenance
    text: TextProvenance

    @property
    def random(self) -> list[str]:
        """Names of the encoders with random weights; empty for a real model."""
        return [name for name, part in (("sam", self.sam), ("text", self.text)) if part.random]
