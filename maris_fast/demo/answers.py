"""Answers of the demo page: from a photograph's file and sentences to masks, pictures and timings."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from maris_fast.errors import InputError
from maris_fast.images import uploaded
from maris_fast.pictures.attention_maps import regions_picture, words_picture
from maris_fast.pictures.attention_weights import pixel_of
from maris_fast.pictures.overlays import Panel, masked
from maris_fast.prediction import EncodedImage, Predictor
from maris_fast.web import limits
from maris_fast.web.encodings import Encodings, key_of

LOGITS = 50_000_000
"""Most logits computed at once (200 MB), which limits how many sentences share a pass."""
ENCODED = 4
"""Photographs whose features are cached."""
WIDTH = 1280
"""Pixels; a wider photograph is scaled down for display, its mask is not."""


@dataclass(frozen=True)
class Answer:
    """The masks of some sentences about one photograph."""

    sentences: tuple[str, ...]
    masks: NDArray[np.bool_]
    """[E, height, width], the photograph's own size."""
    pictures: tuple[Image.Image, ...]
    """Each mask over the photograph, at most ``WIDTH`` wide."""
    encoding_seconds: float | None
    """None if the features were cached."""
    sentences_seconds: float

    @property
    def shares(self) -> list[float]:
        """Each mask's share of the photograph, 0 to 1."""
        return [float(mask.mean()) for mask in self.masks]


class Demo:
    """Answers about photographs; SAM's features of the last ones are cached, so more sentences cost little.

    Thread-safe; threads do not wait for each other.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self._encodings = Encodings(predictor, ENCODED)

    def segment(self, photo: Path | None, sentences: str) -> Answer:
        """Masks of the sentences, one per line; empty lines are ignored.

        Raises:
            InputError: no photograph or an unreadable one; no sentence, too many, or one too long.
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
            x, y: pixel of the photograph; None: a pixel well inside the mask.

        Raises:
            ConfigError: the model has no mutual-aware attention.
            InputError: as ``segment``; several sentences; only one of ``x`` and ``y``; or a pixel outside the
                photograph.
        """
        (text, *more), image = _asked(photo, sentence)
        if more:
            raise InputError(f"{1 + len(more)} sentences; attention can be shown for one only, choose it")
        if (x is None) != (y is None):
            raise InputError("only one of x and y; expected both, or neither for a pixel inside the mask")
        encoded, _ = self._encoded(image)
        mask, found = self.predictor.attention(encoded, text)
        pixel = pixel_of(mask) if x is None or y is None else (x, y)
        regions = [
            (regions_picture(image, mask, found, block), f"block {block + 1}: where each word attends")
            for block in range(len(found.blocks))
        ]
        words = words_picture(image, mask, found, [pixel])
        return [(words, "words that pixel {},{} attends to".format(*pixel)), *regions]

    def _encoded(self, image: Image.Image) -> tuple[EncodedImage, float | None]:
        return self._encodings.of(image, key_of(image))


def _asked(photo: Path | None, text: str) -> tuple[Sequence[str], Image.Image]:
    sentences = sentences_of(text)
    if photo is None and not sentences:
        raise InputError(
            "no photograph and no sentence; upload or choose a photograph, and write what to segment"
        )
    limits.require_sentences(sentences)
    return sentences, photograph(photo)


def photograph(path: Path | None) -> Image.Image:
    """The photograph of an upload or an example.

    Raises:
        InputError: no file, or one that ``limits.photograph`` rejects.
    """
    if path is None:
        raise InputError("no photograph; upload one, or choose an example")
    try:
        return limits.photograph(uploaded(path))
    except InputError as error:
        # The visitor knows the name of the file, not the folder in which it is stored.
        raise InputError(str(error).replace(f"{path.parent}/", "")) from error


def sentences_of(text: str) -> list[str]:
    """The lines that are not empty, without the spaces around them."""
    return [line.strip() for line in text.splitlines() if line.strip()]
