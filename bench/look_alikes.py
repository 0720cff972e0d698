"""How near photographs lie to copies of themselves and to others, by the perceptual hash of ``looks``.

::

    python -m maris_fast.bench.look_alikes FOLDER

Each image of the folder is saved again in the ways that tools have, and compared with the original; and all
images with each other. Printed are the bits, of 256, in which they differ.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from maris_fast.data_shards.looks import LOOK_ALIKE, Look, look_of
from maris_fast.images import load_image


def copies(image: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    """Copies that are the same photograph to a person, by what was done to them."""
    width, height = image.size
    half, quarter = (image.resize((width // n, height // n), Image.Resampling.LANCZOS) for n in (2, 4))
    yield "JPEG, quality 75", _saved(image, "JPEG", 75)
    yield "JPEG, quality 20", _saved(image, "JPEG", 20)
    yield "WebP, quality 60", _saved(image, "WEBP", 60)
    yield "half the size, PNG", half
    yield "a quarter of the size, JPEG 70", _saved(quarter, "JPEG", 70)
    yield "stretched to 640 x 640, JPEG 75", _saved(image.resize((640, 640)), "JPEG", 75)
    yield "1.6 times the size", image.resize((round(1.6 * width), round(1.6 * height)))
    yield "grey", image.convert("L").convert("RGB")


def cut(image: Image.Image) -> Iterator[tuple[str, Image.Image]]:
    """What is not met: the borders moved."""
    width, height = image.size
    part = (round(0.03 * width), round(0.03 * height), round(0.97 * width), round(0.97 * height))
    yield "3% cut off at each border", image.crop(part)
    square = Image.new("RGB", (max(width, height),) * 2)
    square.paste(image, ((square.width - width) // 2, (square.height - height) // 2))
    yield "framed to a square", square


def distances(images: list[Image.Image]) -> tuple[dict[str, list[int]], list[int]]:
    """Of each kind of copy from its original, and of all pairs of images, in order."""
    own = [look_of(image) for image in images]
    of_copies: dict[str, list[int]] = {}
    for image, look in zip(images, own, strict=True):
        for name, copy in (*copies(image), *cut(image)):
            of_copies.setdefault(name, []).append(_bits(look, look_of(copy)))
    pairs = [_bits(a, b) for place, a in enumerate(own) for b in own[:place]]
    return {name: sorted(found) for name, found in of_copies.items()}, sorted(pairs)


def _bits(one: Look, other: Look) -> int:
    return int(np.count_nonzero(one.bits != other.bits))


def _saved(image: Image.Image, form: str, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, form, quality=quality)
    return Image.open(file).convert("RGB")


def main() -> None:
    parser = argparse.ArgumentParser(prog="maris_fast.bench.look_alikes", description=__doc__)
    parser.add_argument("folder", type=Path)
    paths = sorted(path for path in parser.parse_args().folder.iterdir() if path.is_file())
    of_copies, pairs = distances([load_image(path) for path in paths])
    print("| | median | largest |\n|---|---|---|")
    for name, found in of_copies.items():
        print(f"| {name} | {found[len(found) // 2]} | {found[-1]} |")
    print(f"\n{len(paths)} images, {len(pairs):,} pairs: the closest two differ in {pairs[0]} bits, then")
    print(f"{', '.join(map(str, pairs[1:8]))}; up to {LOOK_ALIKE} look alike")


if __name__ == "__main__":
    main()
