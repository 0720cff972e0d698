"""The frozen encoders: SAM's image encoder and CLIP's text tower.

Their libraries (segment-anything, torchvision, open_clip) are imported when an encoder is first used:
training on a cache names encoders, but needs none.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from maris_fast.encoders.provenance import EncodersProvenance, SamProvenance, TextProvenance

if TYPE_CHECKING:
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
]

_LAZY = {
    "SamEncoder": "sam",
    "TextEncoder": "text",
    "TextFeatures": "text",
    "TokenisedText": "text",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
