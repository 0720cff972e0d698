"""The frozen encoders: SAM's image encoder and CLIP's text tower."""

from maris_fast.encoders.placement import place
from maris_fast.encoders.provenance import EncodersProvenance, SamProvenance, TextProvenance
from maris_fast.encoders.sam import SamEncoder
from maris_fast.encoders.text import TextEncoder, TextFeatures, TokenisedText

__all__ = [
    "EncodersProvenance",
    "SamEncoder",
    "SamProvenance",
    "TextEncoder",
    "TextFeatures",
    "TextProvenance",
    "TokenisedText",
    "place",
]
