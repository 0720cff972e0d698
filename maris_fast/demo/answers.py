"""What the demo page answers: from a photograph's file and sentences to masks, pictures and seconds."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from maris_fast.errors import InputError
from maris_fast.images import load_image, views_of
from maris_fast.pictures.attention_maps import regions_picture, words_picture
from maris_fast.pictures.attention_weights import pixel_of
from maris_fast.pictures.overlays import Panel, masked
from maris_fast.prediction import EncodedImage, Predictor

MOST_SENTENCES = 16
MOST_LETTERS = 1000
"""Of a sentence; the text tower takes 77 tokens."""
MOST_PIXELS = 25_000_000
"""Of a photograph."""
LOGITS = 50_000_000
"""Numbers computed at once, 200 MB: for as many sentences as that allows."""
ENCODED = 4
"""Photographs whose features are kept."""
WIDTH = 1280
"""Pixels; a wider photograph is shown smaller, its mask is not."""


@dataclass(frozen=True)
class Answer:
    """The masks of some sentences about one photograph."""

    sentences: tuple[str, ...]
    masks: NDArray[np.bool_]
    """[E, height, width], the photograph's own size."""
    pictures: tuple[Image.Image, ...]
    """Each mask over the photograph, at most ``WIDTH`` wide."""
    encoding_seconds: float | None
    """None: the photograph had been encoded before."""
    sentences_seconds: float

    @property
    def shares(self) -> list[float]:
        """Each mask's part of the photograph, 0 to 1."""
        return [float(mask.mean()) for mask in self.masks]


class Demo:
    """Answers about photographs; SAM's features of the last ones are kept, so more sentences cost little.

    Threads may call it; they do not wait for each other.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, EncodedImage] = OrderedDict()

    def segment(self, photo: Path | None, sentences: str) -> Answer:
        """Masks of the sentences, one a line; empty lines do not count.

        Raises:
            InputError: no photograph or none that can be read; no sentence, too many, or one too long.
        """
        texts, image = _asked(photo, sentences)
        encoded, encoding_seconds = self._encoded(image)
        before = time.perf_counter()
        together = max(1, LOGITS // (image.width * image.height))
        masks = np.concatenate(
            [
                self.predictor.masks(encoded, texts[start : start + together])
                for start in range(0, len(texts), together)
            ]
        )
        seconds = time.perf_counter() - before
        small = min(image.width, WIDTH)
        pictures = tuple(
            masked(Panel(image, mask, text), width=small) for text, mask in zip(texts, masks, strict=True)
        )
        return Answer(tuple(texts), masks, pictures, encoding_seconds, seconds)

    def attention(
        self, photo: Path | None, sentence: str, x: int | None, y: int | None
    ) -> list[tuple[Image.Image, str]]:
        """Pictures with their captions: the words of one pixel, then the regions of each word by block.

        Args:
            x, y: pixel of the photograph; None: one well inside the mask.

        Raises:
            ConfigError: the model has no mutual-aware attention.
            InputError: as ``segment``, half a pixel, or one outside the photograph.
        """
        (text, *more), image = _asked(photo, sentence)
        if more:
            raise InputError(f"{1 + len(more)} sentences; attention is shown of one, choose it")
        if (x is None) != (y is None):
            raise InputError("half a spot; needed are both x and y, or neither for one inside the mask")
        encoded, _ = self._encoded(image)
        mask, found = self.predictor.attention(encoded, text)
        pixel = pixel_of(mask) if x is None or y is None else (x, y)
        regions = [
            (regions_picture(image, mask, found, block), f"block {block + 1}: where each word looks")
            for block in range(len(found.blocks))
        ]
        words = words_picture(image, mask, found, [pixel])
        return [(words, "words that pixel {},{} listens to".format(*pixel)), *regions]

    def _encoded(self, image: Image.Image) -> tuple[EncodedImage, float | None]:
        """With the seconds that encoding took; None if it was done before."""
        key = hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key], None
        before = time.perf_counter()
        encoded = self.predictor.encode(image)
        if self.predictor.device.type == "cuda":
            torch.cuda.synchronize(self.predictor.device)
        seconds = time.perf_counter() - before
        with self._lock:
            self._kept[key] = encoded
            while len(self._kept) > ENCODED:
                self._kept.popitem(last=False)
        return encoded, seconds


def _asked(photo: Path | None, text: str) -> tuple[Sequence[str], Image.Image]:
    sentences = sentences_of(text)
    if photo is None and not sentences:
        raise InputError(
            "no photograph and no sentence; upload or choose a photograph, and write what to segment"
        )
    return _some(sentences), photograph(photo)


def photograph(path: Path | None) -> Image.Image:
    """The photograph as browsers show it, RGB: its EXIF orientation is applied.

    Raises:
        InputError: no file, or none that can be read as an image.
    """
    if path is None:
        raise InputError("no photograph; upload one, or choose an example")
    try:
        height, width = views_of(path).stored
        if height * width > MOST_PIXELS:
            raise InputError(f"{path.name} has {height * width:,} pixels; at most {MOST_PIXELS:,} are taken")
        return load_image(path)
    except InputError as error:
        # Whoever uploaded it knows its name, not the folder that it was put into.
        raise InputError(str(error).replace(f"{path.parent}/", "")) from error


def sentences_of(text: str) -> list[str]:
    """The lines that are not empty, without the spaces around them."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _some(sentences: Sequence[str]) -> Sequence[str]:
    if not sentences:
        raise InputError("no sentence; write what to segment, such as: the dog on the left")
    if len(sentences) > MOST_SENTENCES:
        raise InputError(f"{len(sentences)} sentences; at most {MOST_SENTENCES} are answered at once")
    for sentence in sentences:
        if len(sentence) > MOST_LETTERS:
            raise InputError(f"a sentence of {len(sentence)} letters; at most {MOST_LETTERS} are read")
        try:
            sentence.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"{sentence!r} holds half a character at {error.start}; write it again"
            ) from error
    return sentences
