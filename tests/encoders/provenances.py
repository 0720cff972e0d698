"""Provenance of made-up encoders."""

from __future__ import annotations

from maris_fast.encoders import EncodersProvenance, SamProvenance, TextProvenance


def provenance(**sam: object) -> EncodersProvenance:
    made = {
        "library": "segment-anything 1.0",
        "arch": "vit_h",
        "weights": "sam.pth",
        "sha256": "aa",
        "seed": None,
        "channels": 1280,
        "image_size": 1024,
        "blocks": (15, 23, 31),
        **sam,
    }
    text = TextProvenance(
        library="open_clip 3.3.0",
        arch="tiny",
        weights="random",
        sha256=None,
        seed=0,
        channels=64,
        quick_gelu=False,
        context_length=77,
        max_words=32,
    )
    return EncodersProvenance(sam=SamProvenance.model_validate(made), text=text)
