"""What produced the features: written to the cache's manifest and carried into every weights file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from maris_fast.config import MOST_CHANNELS, MOST_PIXELS_A_SIDE, Seed


class _Provenance(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class EncoderProvenance(_Provenance):
    """Provenance of one encoder."""

    library: str
    arch: str
    weights: str
    """Name of the weights (file name or tag), or ``random``."""
    sha256: str | None
    """Checksum of the weights file; None for random weights."""
    seed: Seed | None
    """Seed of random weights; None for a file."""
    channels: int = Field(gt=0, le=MOST_CHANNELS)

    @property
    def random(self) -> bool:
        return self.sha256 is None


class SamProvenance(EncoderProvenance):
    image_size: int = Field(gt=0, le=MOST_PIXELS_A_SIDE)
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

    @property
    def caution(self) -> str | None:
        """A warning that masks and scores come from random encoders; None if no encoder is random."""
        if not self.random:
            return None
        return f"these weights were trained on features of random encoders ({' and '.join(self.random)})"

    def differences(self, other: EncodersProvenance) -> list[str]:
        """Why features of the two are not interchangeable, one line per reason; empty if they are.

        The library's version and the name of a weights file are ignored, its content is compared.
        """
        lines = []
        for part in ("sam", "text"):
            mine, theirs = (getattr(each, part).model_dump() for each in (self, other))
            for key in mine.keys() - {"library", "weights"}:
                if mine[key] != theirs[key]:
                    lines.append(f"{part}.{key}: {mine[key]} against {theirs[key]}")
        return sorted(lines)
