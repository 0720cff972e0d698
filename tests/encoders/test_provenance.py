"""Features are interchangeable only if the same encoder with the same weights computed them."""

from __future__ import annotations

from tests.encoders.provenances import provenance


def test_only_what_changes_the_features_is_a_difference() -> None:
    assert provenance().differences(provenance(library="segment-anything 2.0", weights="copy.pth")) == []
    assert provenance().differences(provenance(sha256="bb", image_size=512)) == [
        "sam.image_size: 1024 against 512",
        "sam.sha256: aa against bb",
    ]


def test_random_encoders_are_named() -> None:
    assert provenance().random == ["text"]
    assert provenance(sha256=None, seed=1).random == ["sam", "text"]
