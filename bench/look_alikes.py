"""How many bits of the perceptual hash differ between a photograph and its copies, and between photographs.

    python -m maris_fast.bench.look_alikes PHOTOGRAPHS

Each photograph is re-saved in the ways that common tools do, and compared with the original; then all
photographs are compared with each other.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import combinations
from pathlib import Path
from statistics import median_high
from typing import Annotated, Literal

import numpy as np
import torch
import typer
from PIL import Image

from maris_fast.bench.program import run_program
from maris_fast.bench.results import BENCH, Row, Suite
from maris_fast.data_shards.looks import Look, look_of
from maris_fast.images import load_image
from maris_fast.system.terminal import say
from maris_fast.train.environment import environment
from maris_fast.train.ranks import Ranks

Kind = Literal["copy", "moved", "other"]
"""What a photograph is compared with: a copy, one with moved borders (not detected), another photograph."""


def main(
    photographs: Annotated[Path, typer.Argument(help="a folder; its .jpg files, at any depth")],
    out: Annotated[Path, typer.Option(help="where <device>/look_alikes.json goes")] = BENCH / "results",
) -> None:
    """Measure distances; ``maris-fast bench report`` draws the table."""
    found = sorted(photographs.rglob("*.jpg"))
    if len(found) < 2:
        raise typer.BadParameter(f"{len(found)} .jpg files below {photographs}; expected two")
    rows = measured([load_image(path) for path in found])
    made = Suite.now("look_alikes", environment(Ranks(torch.device("cpu"))), rows)
    say(f"wrote {made.save(out)}")


def measured(images: Sequence[Image.Image]) -> list[Row]:
    """Differing bits between each kind of copy and its original, and between all pairs of ``images``."""
    looks = [look_of(image) for image in images]
    bits: dict[tuple[Kind, str], list[int]] = {}
    for image, look in zip(images, looks, strict=True):
        for kind, name, copy in copies(image):
            bits.setdefault((kind, name), []).append(_distance(look, look_of(copy)))
    bits["other", "another photograph"] = [_distance(one, other) for one, other in combinations(looks, 2)]
    return [
        {
            "kind": kind,
            "compared": name,
            "pairs": len(found),
            "least": min(found),
            "median": median_high(found),
            "largest": max(found),
        }
        for (kind, name), found in bits.items()
    ]


def copies(image: Image.Image) -> Iterator[tuple[Kind, str, Image.Image]]:
    """Copies that look the same to a person, with their kind and what was done to them."""
    width, height = image.size
    half, quarter = (image.resize((width // n, height // n), Image.Resampling.LANCZOS) for n in (2, 4))
    yield "copy", "JPEG, quality 75", _saved(image, "JPEG", 75)
    yield "copy", "JPEG, quality 20", _saved(image, "JPEG", 20)
    yield "copy", "WebP, quality 60", _saved(image, "WEBP", 60)
    yield "copy", "half the size, PNG", half
    yield "copy", "a quarter of the size, JPEG 70", _saved(quarter, "JPEG", 70)
    yield "copy", "stretched to 640 x 640, JPEG 75", _saved(image.resize((640, 640)), "JPEG", 75)
    yield "copy", "1.6 times the size", image.resize((round(1.6 * width), round(1.6 * height)))
    yield "copy", "grey", image.convert("L").convert("RGB")
    part = (round(0.03 * width), round(0.03 * height), round(0.97 * width), round(0.97 * height))
    yield "moved", "3% cut off at each border", image.crop(part)
    square = Image.new("RGB", (max(width, height),) * 2)
    square.paste(image, ((square.width - width) // 2, (square.height - height) // 2))
    yield "moved", "framed to a square", square


def _saved(image: Image.Image, file_format: str, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, file_format, quality=quality)
    return Image.open(file).convert("RGB")


def _distance(one: Look, other: Look) -> int:
    return int(np.count_nonzero(one.bits != other.bits))


if __name__ == "__main__":
    run_program(main)
