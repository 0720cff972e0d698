"""Distances between photographs and their copies are those of the hash that mixing and importing use."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from maris_fast.bench.drawing.plain_tables import look_alikes_block
from maris_fast.bench.look_alikes import measured
from maris_fast.bench.results import Suite
from maris_fast.data_shards import looks


def coarse(seed: int) -> Image.Image:
    """An image that looks like a photograph to the hash: large shapes in many shades of grey."""
    pixels = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), np.uint8)
    return Image.fromarray(pixels).resize((320, 240), Image.Resampling.BICUBIC)


def test_copies_are_near_their_original_and_other_pictures_far_from_it() -> None:
    rows = measured([coarse(seed) for seed in range(3)])
    of_kind = {kind: [row for row in rows if row["kind"] == kind] for kind in ("copy", "moved", "other")}
    assert [len(found) for found in of_kind.values()] == [8, 2, 1]
    assert all(row["pairs"] == 3 and row["largest"] <= 16 for row in of_kind["copy"])
    assert all(row["least"] > 32 for row in of_kind["moved"] + of_kind["other"])


def jpeg(image: Image.Image) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG")
    return Image.open(file).convert("RGB")


def test_copies_are_found_wherever_they_are_among_many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs are compared in blocks of ``_AT_ONCE``."""
    images = {f"{seed}.png": coarse(seed) for seed in range(8)}
    of = {name: looks.look_of(image) for name, image in images.items()}
    among = {f"copy-{name}": looks.look_of(jpeg(image)) for name, image in images.items()}
    monkeypatch.setattr(looks, "_AT_ONCE", 3)
    found = looks.twins(of, among)
    assert {name: [twin.path for twin in of_it] for name, of_it in found.items()} == {
        name: [f"copy-{name}"] for name in images
    }


def test_the_table_marks_what_is_not_detected_and_tells_how_far_others_are() -> None:
    rows = [
        {"kind": "copy", "compared": "grey", "pairs": 3, "least": 0, "median": 1, "largest": 2},
        {"kind": "moved", "compared": "framed", "pairs": 3, "least": 40, "median": 50, "largest": 60},
        {"kind": "other", "compared": "another", "pairs": 3, "least": 96, "median": 128, "largest": 140},
    ]
    suite = Suite("look_alikes", "2026-11-30", "a" * 40, False, {"device": "cpu"}, rows)
    assert look_alikes_block(suite).splitlines()[2:] == [
        "| grey | 1 | 2 |",
        "| *not detected:* framed | 50 | 60 |",
        "",
        "Two photographs differ in 96 bits at least, in 128 in the middle of 3 pairs. "
        "(3 photographs; commit aaaaaaaaaaaa, 2026-11-30.)",
    ]
