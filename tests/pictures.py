"""Photographs and PNG files made by hand: turned, damaged, counted."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

TURNS = range(2, 9)
UPRIGHT = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
"""The image as it should be shown."""


def stored_for(turn: int, shown: np.ndarray = UPRIGHT) -> np.ndarray:
    """Pixels that EXIF's orientation ``turn`` maps to ``shown``: TIFF 6.0, "Orientation", row by row."""
    return {
        1: shown,
        2: shown[:, ::-1],
        3: shown[::-1, ::-1],
        4: shown[::-1],
        5: shown.swapaxes(0, 1),
        6: shown.swapaxes(0, 1)[::-1],
        7: shown[::-1, ::-1].swapaxes(0, 1),
        8: shown.swapaxes(0, 1)[:, ::-1],
    }[turn]


def exif_of(turn: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = turn
    return exif


def turned(path: Path, turn: int, shown: np.ndarray = UPRIGHT) -> Path:
    """A photograph stored as by a phone, but lossless."""
    Image.fromarray(np.ascontiguousarray(stored_for(turn, shown))).save(
        path, exif=exif_of(turn), **({"lossless": True} if path.suffix == ".webp" else {})
    )
    return path


class Decodes:
    """Counts how often the pixels of a PNG are decoded."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.number = 0
        prepare = PngImageFile.load_prepare

        def counted(image: PngImageFile) -> None:
            self.number += 1
            prepare(image)

        monkeypatch.setattr(PngImageFile, "load_prepare", counted)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(width: int, height: int, *chunks: bytes) -> bytes:
    head = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunks) + png_chunk(b"IEND", b"")
