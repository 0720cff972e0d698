"""A cache of SAM's features of photographs, so that more sentences about one cost little."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import OrderedDict

import torch
from PIL import Image

from maris_fast.prediction import EncodedImage, Predictor


def key_of(image: Image.Image) -> bytes:
    """The cache key of a photograph; equal if the pixels are equal, whatever the files."""
    return hashlib.sha256(f"{image.size}".encode() + image.tobytes()).digest()


class Encodings:
    """The features of the ``most`` photographs that were used last. Thread-safe."""

    def __init__(self, predictor: Predictor, most: int) -> None:
        self._predictor = predictor
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, EncodedImage] = OrderedDict()

    def of(self, image: Image.Image, key: bytes) -> tuple[EncodedImage, float | None]:
        """The features, and the seconds that encoding took; None if they were cached.

        Args:
            key: ``key_of`` the image.

        Raises:
            InputError: as ``Predictor.encode``.
        """
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key], None
        before = time.perf_counter()
        encoded = self._predictor.encode(image)
        if self._predictor.device.type == "cuda":
            torch.cuda.synchronize(self._predictor.device)
        seconds = time.perf_counter() - before
        with self._lock:
            self._kept[key] = encoded
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return encoded, seconds
