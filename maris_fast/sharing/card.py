"""Common parts of the cards: a README.md with front matter for the Hub and text for people."""

from __future__ import annotations

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from maris_fast.encoders import EncodersProvenance
from maris_fast.encoders.provenance import EncoderProvenance

CARD = "README.md"
LIBRARY, TASK = "maris-fast", "image-segmentation"
TAGS = ("referring-image-segmentation", "maris")
UNKNOWN = "unknown"
"""The Hub's identifier for an unspecified license."""


def card_template(kind: str) -> Template:
    """The template ``<kind>_card.md.j2``; text written by people goes through its filter ``plain``."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=False,  # no HTML
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["plain"] = plain
    return environment.get_template(f"{kind}_card.md.j2")


def plain(text: object) -> str:
    """Text as one line of Markdown, escaped so that it is shown unchanged."""
    return re.sub(r"([\\`*_\[\]<>|#~&!])", r"\\\1", " ".join(str(text).split()))


def encoder_rows(encoders: EncodersProvenance) -> dict[str, str]:
    """Descriptions of the encoders that made the features, by name."""
    return {"SAM": _encoder(encoders.sam), "text": _encoder(encoders.text)}


def _encoder(made_with: EncoderProvenance) -> str:
    if made_with.random:
        return f"{made_with.arch} ({made_with.library}), random weights of seed {made_with.seed}"
    return f"{made_with.arch} ({made_with.library}), weights {made_with.weights}, SHA-256 {made_with.sha256}"
