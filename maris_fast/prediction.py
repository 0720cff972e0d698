"""Prediction of masks from an image and sentences, with the encoders that made the training features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from os import PathLike
from pathlib import Path
from typing import overload

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from maris_fast.config import RANDOM, SamSettings, TextSettings
from maris_fast.encoders import EncodersProvenance, SamEncoder, TextEncoder, TextFeatures
from maris_fast.encoders.provenance import EncoderProvenance
from maris_fast.errors import ArgumentError, CheckpointError
from maris_fast.geometry import ImageGeometry, to_original_size
from maris_fast.images import as_shown, load_image
from maris_fast.pictures.attention_weights import Attention, of_expression, watched
from maris_fast.system.devices import fitting, usable
from maris_fast.weight_files import find_weights, pretrained_weights
from maris_fast.weights import load_model


@dataclass(frozen=True)
class EncodedImage:
    """SAM's features of an image, which is all that a predictor needs to segment any number of sentences."""

    features: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    """F_v1, F_v2, F_v3, float32 [h, w, C_v] on the predictor's device."""
    geometry: ImageGeometry
    """Geometry of the image; (h, w) is its grid."""


Picture = str | PathLike[str] | Image.Image | NDArray[np.uint8] | EncodedImage
"""An image: a path, a Pillow image, an RGB array uint8 [H, W, 3], or the result of ``Predictor.encode``.

The EXIF orientation of files and Pillow images is applied: masks are for the image as it is shown.
"""


class Predictor:
    """A trained model with its frozen encoders.

        predictor = maris_fast.Predictor("runs/quickstart/training")
        mask = predictor.masks("photo.jpg", "the red circle")  # bool [H, W]
        masks = predictor.masks("photo.jpg", ["the red circle", "the bar"])  # bool [2, H, W]

    An image is encoded on every call; to segment further sentences later, pass the result of ``encode``
    instead.

    Args:
        weights: a run's folder, or a ``best.safetensors`` or ``last.safetensors`` of one.
        sam_weights: the SAM checkpoint that made the features; None if the model was trained on features of
            a random encoder, which is rebuilt from the weights' header.
        text_weights: likewise CLIP's weights, a path or an open_clip tag.
        device: where everything runs; "auto" is the GPU, or the CPU of a machine without one.

    Raises:
        TypeError: ``weights`` is not a path.
        ConfigError: the device is not available.
        CheckpointError: weights are missing, unsafe, or not those that the features were made with.
    """

    def __init__(
        self,
        weights: str | PathLike[str],
        *,
        sam_weights: str | PathLike[str] | None = None,
        text_weights: str | PathLike[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        weights = find_weights(weights)
        self.device = usable(device)
        self.model, self.meta = load_model(weights, self.device)
        made_with = self.meta.encoders
        self.sam = SamEncoder(_sam_settings(made_with, sam_weights), self.device)
        self.text = TextEncoder(_text_settings(made_with, text_weights), self.device)
        loaded = EncodersProvenance(sam=self.sam.provenance, text=self.text.provenance)
        if differences := loaded.differences(made_with):
            raise CheckpointError(
                f"these encoders are not the ones {weights} was trained with: {'; '.join(differences)}; "
                "give their weights with `sam_weights` and `text_weights`"
            )

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        *,
        revision: str | None = None,
        cache_dir: str | PathLike[str] | None = None,
        local_files_only: bool = False,
        sam_weights: str | PathLike[str] | None = None,
        text_weights: str | PathLike[str] | None = None,
        device: torch.device | str = "cpu",
    ) -> Predictor:
        """A model that ``maris-fast push`` uploaded to the Hugging Face Hub, or wrote to a folder.

            predictor = maris_fast.Predictor.from_pretrained("org/name")

        The weights are read as safetensors, never from a pickle. Downloads are kept in huggingface_hub's
        cache, which is also used if the Hub cannot be reached.

        Args:
            source: ``org/name`` on the Hub, or a local folder, which takes precedence.
            revision: a branch, tag or commit of the repository; None: main.
            cache_dir: folder of the cache; None: huggingface_hub's default, ``HF_HUB_CACHE``.
            local_files_only: do not access the network.
            sam_weights: see ``Predictor``.
            text_weights: see ``Predictor``.
            device: see ``Predictor``.

        Raises:
            TypeError, ConfigError, CheckpointError: as ``Predictor``; or the model cannot be found.
            ArgumentError: ``revision`` is given for a local folder.
        """
        weights = pretrained_weights(
            source, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
        )
        return cls(weights, sam_weights=sam_weights, text_weights=text_weights, device=device)

    @property
    def caution(self) -> str | None:
        """Warning that encoders are random, so that masks are not to be trusted; None if none is."""
        return self.meta.encoders.caution

    @torch.inference_mode()
    def encode(self, image: Picture) -> EncodedImage:
        """SAM's features of an image; on a GPU they may still be being computed on return.

        Raises:
            TypeError: not an image, or an array of a dtype other than uint8.
            ArgumentError: an array of a shape other than [H, W, 3].
            InputError: not a readable image, or one so narrow that its short side would vanish.
            MemoryShortageError: it does not fit in the GPU's memory.
        """
        if isinstance(image, EncodedImage):
            return image
        picture = _picture(image)
        geometry = self.sam.grid(picture.height, picture.width)
        with fitting("end what else uses the GPU (nvidia-smi), or set `device` to cpu"):
            (features,) = self.sam.encode([picture])
        return EncodedImage(features, geometry)

    @torch.inference_mode()
    def logits(self, image: Picture, expressions: str | Sequence[str]) -> torch.Tensor:
        """Logits [E, H, W] of several expressions, [H, W] of one, at the size at which the image is shown.

        ``logits.sigmoid()`` is the model's probability of each pixel. All logits of an expression are far
        below 0 if the model says that it refers to nothing.

        Raises:
            TypeError, InputError, MemoryShortageError: as ``encode``; or an expression is not text.
            ArgumentError: no expression, an empty one, or one too long for the text tower.
        """
        texts = _texts(expressions)
        tokens = self.text.encode(texts)
        encoded = self.encode(image)
        fewer = "ask for fewer expressions at once, or " if len(texts) > 1 else ""
        with fitting(f"{fewer}set `device` to cpu"):
            (coarse,) = self._coarse([encoded], [tokens])
            logits = to_original_size(coarse, encoded.geometry)
        return logits[0] if isinstance(expressions, str) else logits

    @torch.inference_mode()
    def coarse_logits(
        self, images: Sequence[EncodedImage], expressions: Sequence[Sequence[str]]
    ) -> list[torch.Tensor]:
        """Logits of several images at once, [E, 4h, 4w] of each image's own grid (h, w).

        ``to_original_size`` turns them into the result of ``logits``, up to rounding. Images with the same
        grid share a forward pass.

        Args:
            expressions: of each image, at least one.

        Raises:
            ArgumentError, CheckpointError: as ``logits``, for any of them.
        """
        tokens = iter(self.text.encode([text for texts in expressions for text in texts]))
        of_images = [[next(tokens) for _ in texts] for texts in expressions]
        found: dict[int, torch.Tensor] = {}
        for grid in dict.fromkeys(image.geometry.grid for image in images):
            places = [place for place, image in enumerate(images) if image.geometry.grid == grid]
            together = self._coarse([images[one] for one in places], [of_images[one] for one in places])
            found.update(zip(places, together, strict=True))
        return [found[place] for place in range(len(images))]

    def _coarse(
        self, images: Sequence[EncodedImage], tokens: Sequence[Sequence[TextFeatures]]
    ) -> tuple[torch.Tensor, ...]:
        """Logits of images with the same grid, [E, 4h, 4w] each."""
        numbers = [len(texts) for texts in tokens]
        words, word_mask = _padded([text for texts in tokens for text in texts])
        expr_offsets = torch.tensor([0, *accumulate(numbers)], dtype=torch.int32, device=self.device)
        features = [torch.stack(levels) for levels in zip(*(one.features for one in images), strict=True)]
        said = self.model(features, words, word_mask, expr_offsets)
        said.require_finite()
        return said.answer().split(numbers)

    def masks(self, image: Picture, expressions: str | Sequence[str]) -> NDArray[np.bool_]:
        """Masks, bool [E, H, W] of several expressions, [H, W] of one: where ``logits`` are above 0."""
        return (self.logits(image, expressions) > 0).cpu().numpy()

    @overload
    def attention(  # type: ignore[overload-overlap]  # a str is a sequence of str
        self, image: Picture, expressions: str
    ) -> tuple[NDArray[np.bool_], Attention]: ...

    @overload
    def attention(
        self, image: Picture, expressions: Sequence[str]
    ) -> tuple[NDArray[np.bool_], list[Attention]]: ...

    def attention(
        self, image: Picture, expressions: str | Sequence[str]
    ) -> tuple[NDArray[np.bool_], Attention | list[Attention]]:
        """Masks as from ``masks``, and each expression's attention between its words and the image.

        Raises:
            ConfigError: the model has no mutual-aware attention.
            TypeError, ArgumentError, InputError: as ``logits``.
        """
        texts = _texts(expressions)
        read = [self.text.tokenise(text).tokens for text in texts]
        with watched(self.model) as blocks:
            encoded = self.encode(image)
            masks = self.masks(encoded, expressions if isinstance(expressions, str) else texts)
        found = [
            of_expression(blocks, place, text, tokens, encoded.geometry)
            for place, (text, tokens) in enumerate(zip(texts, read, strict=True))
        ]
        return masks, found[0] if isinstance(expressions, str) else found


def score_of(logits: torch.Tensor) -> float:
    """Mean probability of the mask's pixels, from an expression's ``logits`` [H, W]; if the mask is empty,
    the largest probability in the image."""
    probabilities, inside = logits.sigmoid(), logits > 0
    return float(probabilities[inside].mean() if inside.any() else probabilities.max())


def _picture(image: object) -> Image.Image:
    if isinstance(image, str | PathLike):
        return load_image(Path(image))
    if isinstance(image, Image.Image):
        return as_shown(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(
            f"image is {type(image).__name__}; expected a path, a Pillow image or an array uint8 [H, W, 3]"
        )
    came = f"image is an array {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3], RGB"
    if image.dtype != np.uint8:
        raise TypeError(came)
    if image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ArgumentError(came)
    return Image.fromarray(image)


def _texts(expressions: object) -> list[str]:
    if isinstance(expressions, str):
        return [expressions]
    if not isinstance(expressions, Iterable) or isinstance(expressions, bytes):
        raise TypeError(
            f"expressions is {type(expressions).__name__}; expected a sentence (str) or a list of sentences"
        )
    texts = list(expressions)
    for place, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"expressions[{place}] is {type(text).__name__}; expected a sentence (str)")
    if not texts:
        raise ArgumentError("expressions is empty; expected a sentence, or a list of at least one")
    return texts


def _padded(texts: Sequence[TextFeatures]) -> tuple[torch.Tensor, torch.Tensor]:
    words = torch.nn.utils.rnn.pad_sequence([text.words for text in texts], batch_first=True)
    lengths = torch.tensor([len(text.words) for text in texts], device=words.device)
    return words, torch.arange(words.shape[1], device=words.device) < lengths[:, None]


def _sam_settings(made_with: EncodersProvenance, weights: str | PathLike[str] | None) -> SamSettings:
    sam = made_with.sam
    return SamSettings(
        arch=sam.arch,
        weights=RANDOM if sam.random else _needed(weights, sam, "sam_weights"),
        image_size=sam.image_size,
        seed=sam.seed or 0,
    )


def _text_settings(made_with: EncodersProvenance, weights: str | PathLike[str] | None) -> TextSettings:
    text = made_with.text
    return TextSettings(
        arch=text.arch,
        weights=RANDOM if text.random else _needed(weights, text, "text_weights"),
        max_words=text.max_words,
        seed=text.seed or 0,
    )


def _needed(weights: str | PathLike[str] | None, made_with: EncoderProvenance, argument: str) -> str:
    if weights is None:
        raise CheckpointError(
            f"the model was trained on features of {made_with.arch} with the weights {made_with.weights}; "
            f"say where they are with `{argument}`"
        )
    return str(weights)
