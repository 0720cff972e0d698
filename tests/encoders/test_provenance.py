"""Features may stand for each other only when the same encoder with the same weights made them."""

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


def test_only_what_changes_the_features_is_a_difference() -> None:
    assert provenance().differences(provenance(library="segment-anything 2.0", weights="copy.pth")) == []
    assert provenance().differences(provenance(sha256="bb", image_size=512)) == [
        "sam.image_size: 1024 against 512",
        "sam.sha256: aa against bb",
    ]


def test_random_encoders_are_named() -> None:
    assert provenance().random == ["text"]
    assert provenance(sha256=None, seed=1).random == ["sam", "text"]
