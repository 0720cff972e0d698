"""From an upload and sentences to masks, for many concurrent requests."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from maris_fast.errors import InputError
from maris_fast.geometry import ImageGeometry, to_original_size
from maris_fast.images import Upload, views_of
from maris_fast.prediction import EncodedImage, Predictor, score_of
from maris_fast.service.places import Places
from maris_fast.service.refusals import later, of_input
from maris_fast.service.settings import ServiceSettings
from maris_fast.service.together import Together
from maris_fast.web.encodings import Encodings, key_of
from maris_fast.web.limits import photograph, require_pixels, require_sentences

THREADS = 4
"""Threads that decode photographs and encode masks, besides the model's thread."""
EXPRESSIONS = 64
"""Sentences in one forward pass."""

_Result = TypeVar("_Result")
_Rendered = TypeVar("_Rendered")


@dataclass(frozen=True)
class Segmented:
    """The mask of what a sentence refers to."""

    sentence: str
    score: float
    mask: NDArray[np.bool_]
    """[H, W], in the orientation in which the photograph is shown."""


@dataclass(frozen=True)
class _Asked:
    """A decoded photograph with valid sentences."""

    image: Image.Image
    key: bytes
    sentences: tuple[str, ...]


@dataclass(frozen=True)
class _Coarse:
    logits: torch.Tensor
    """[E, 4h, 4w]."""
    geometry: ImageGeometry


class Segmenting:
    """Answers requests; concurrent ones share a forward pass, and photographs of equal pixels share features.

    Uploads are kept only in memory and have no names, so that they cannot collide.
    """

    def __init__(self, predictor: Predictor, settings: ServiceSettings) -> None:
        self.predictor = predictor
        self.settings = settings
        self.places = Places(settings.at_once, settings.waiting, settings.of_one)
        self.is_ending = self.is_broken = False
        self._encodings = Encodings(predictor, settings.keep_images)
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="maris-fast-image")
        self._model = ThreadPoolExecutor(1, thread_name_prefix="maris-fast-model")
        self._coarse = Together(self._compute, lambda one: len(one.sentences), EXPRESSIONS, self._model)
        self._timeouts: set[asyncio.Timeout] = set()

    async def segment(
        self,
        upload: Upload,
        sentences: Sequence[str],
        visitor: str,
        rendered: Callable[[Segmented], _Rendered],
    ) -> tuple[tuple[int, int], list[_Rendered]]:
        """Height and width of the photograph as it is shown, and what ``rendered`` returns for each sentence.

        Raises:
            HTTPException: the input cannot be used, or the service is too busy or ending.
        """
        if self.is_ending:
            raise later("the service is ending; ask again later")
        try:
            async with asyncio.timeout(self.settings.seconds) as timeout:
                self._timeouts.add(timeout)
                try:
                    # Errors that can be found at once do not wait for a place.
                    await self._in(self._threads, self._check, upload, sentences)
                    async with self.places.taken(visitor):
                        asked = await self._in(self._threads, self._decoded, upload, sentences)
                        coarse = await self._coarse(asked)
                        found = await self._in(self._threads, _rendered, asked.sentences, coarse, rendered)
                finally:
                    self._timeouts.discard(timeout)
        except InputError as error:
            raise of_input(error) from error
        except torch.AcceleratorError:
            # Such as an illegal access or a lost GPU: all later calls fail in this process.
            self.is_broken = True
            raise
        except TimeoutError as error:
            if self.is_ending:
                raise later("the service is ending; ask again later") from error
            raise later(f"not answered within {self.settings.seconds:g} s; ask again later") from error
        return (coarse.geometry.height, coarse.geometry.width), found

    def end(self) -> None:
        """Refuse new requests; current ones have ``settings.grace`` seconds to finish."""
        self.is_ending = True
        until = asyncio.get_running_loop().time() + self.settings.grace
        for timeout in self._timeouts:
            timeout.reschedule(min(until, timeout.when() or until))

    def close(self) -> None:
        """End the threads, without waiting for one that is computing."""
        for pool in (self._threads, self._model):
            pool.shutdown(wait=False, cancel_futures=True)

    @staticmethod
    async def _in(pool: Executor, work: Callable[..., _Result], *inputs: object) -> _Result:
        return await asyncio.get_running_loop().run_in_executor(pool, work, *inputs)

    def _check(self, upload: Upload, sentences: Sequence[str]) -> None:
        require_sentences(sentences, self.settings.sentences)
        for sentence in sentences:
            self.predictor.text.tokenise(sentence)
        views = views_of(upload)
        require_pixels(upload, views, self.settings.pixels)
        self.predictor.sam.grid(*views.shown)

    def _decoded(self, upload: Upload, sentences: Sequence[str]) -> _Asked:
        image = photograph(upload, self.settings.pixels)
        return _Asked(image, key_of(image), tuple(sentences))

    def _compute(self, asked: Sequence[_Asked]) -> Sequence[_Coarse | Exception]:
        """Compute the logits of several requests; runs in the model's thread."""
        encoded: dict[bytes, EncodedImage | Exception] = {}
        for one in asked:
            if one.key not in encoded:
                try:
                    encoded[one.key], _ = self._encodings.of(one.image, one.key)
                except Exception as error:
                    encoded[one.key] = error
        found: list[_Coarse | Exception] = []
        images = [image for one in asked if isinstance(image := encoded[one.key], EncodedImage)]
        texts = [one.sentences for one in asked if isinstance(encoded[one.key], EncodedImage)]
        logits = iter(self.predictor.coarse_logits(images, texts) if images else ())
        for one in asked:
            image = encoded[one.key]
            found.append(image if isinstance(image, Exception) else _Coarse(next(logits), image.geometry))
        return found


@torch.inference_mode()
def _rendered(
    sentences: Sequence[str], coarse: _Coarse, rendered: Callable[[Segmented], _Rendered]
) -> list[_Rendered]:
    """Render masks one by one: for a large photograph, the logits of all sentences would take gigabytes."""
    found = []
    for place, sentence in enumerate(sentences):
        (logits,) = to_original_size(coarse.logits[place : place + 1], coarse.geometry)
        found.append(rendered(Segmented(sentence, score_of(logits), (logits > 0).cpu().numpy())))
    return found
