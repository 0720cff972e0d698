"""From an image and a sentence to a mask, with the encoders that made the model's training features."""

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
from maris_fast.system.devices import usable
from maris_fast.weight_files import find_weights, pretrained_weights
from maris_fast.weights import load_model


@dataclass(frozen=True)
class EncodedImage:
    """What SAM makes of an image, all that a predictor needs of it: sentences can follow one by one."""

    features: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    """F_v1, F_v2, F_v3, float32 [h, w, C_v] on the predictor's device."""
    geometry: ImageGeometry
    """Of the image; (h, w) is its grid."""


Picture = str | PathLike[str] | Image.Image | NDArray[np.uint8] | EncodedImage
"""An image as a path, as Pillow has it, as an RGB array uint8 [H, W, 3], or as ``Predictor.encode`` gave it.

Of a file and of a Pillow image EXIF's orientation counts: masks are for the image as it is shown.
"""


class Predictor:
    """A trained model with its frozen encoders.

        predictor = maris_fast.Predictor("runs/quickstart/training")
        mask = predictor.masks("photo.jpg", "the red circle")  # bool [H, W]
        masks = predictor.masks("photo.jpg", ["the red circle", "the bar"])  # bool [2, H, W]

    An image is encoded each time that it is given; where more sentences may come, give what ``encode`` made
    of it.

    Args:
        weights: a run's folder, or a ``best.safetensors`` or ``last.safetensors`` of one.
        sam_weights: SAM's checkpoint, the one that made the features; None where the model was trained on
            features of a random encoder, which its header can make again.
        text_weights: likewise CLIP's weights, a path or open_clip's tag.
        device: where everything runs.

    Raises:
        TypeError: ``weights`` is no path.
        ConfigError: a device that is not here.
        CheckpointError: weights missing, unsafe, or other than those the features were made with.
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
        """A model that ``maris-fast push`` gave to the Hugging Face Hub, or wrote to a folder.

            predictor = maris_fast.Predictor.from_pretrained("org/name")

        The weights are read as safetensors, never from a pickle. Those of the Hub are kept in
        huggingface_hub's cache, which is also read where the Hub cannot be reached.

        Args:
            source: ``org/name`` of the Hub, or a folder of that name, which comes first.
            revision: of the repository: a branch, a tag or a commit; None: main.
            cache_dir: folder of the cache; None: huggingface_hub's own, ``HF_HUB_CACHE``.
            local_files_only: ask nothing of the network.
            sam_weights: as ``Predictor``.
            text_weights: as ``Predictor``.
            device: as ``Predictor``.

        Raises:
            TypeError, ConfigError, CheckpointError: as ``Predictor``; or there is no such model to be had.
            ArgumentError: a revision of a local folder.
        """
        weights = pretrained_weights(
            source, revision=revision, cache_dir=cache_dir, local_files_only=local_files_only
        )
        return cls(weights, sam_weights=sam_weights, text_weights=text_weights, device=device)

    @property
    def caution(self) -> str | None:
        """What to know before believing a mask: that encoders are random; None if none is."""
        return self.meta.encoders.caution

    @torch.inference_mode()
    def encode(self, image: Picture) -> EncodedImage:
        """SAM's features of an image; on a GPU they may still be under way when this returns.

        Raises:
            TypeError: no image; an array of another dtype than uint8.
            ArgumentError: an array of another shape than [H, W, 3].
            InputError: no image that can be read, or one so narrow that its short side would vanish.
        """
        if isinstance(image, EncodedImage):
            return image
        picture = _picture(image)
        geometry = self.sam.grid(picture.height, picture.width)
        (features,) = self.sam.encode([picture])
        return EncodedImage(features, geometry)

    @torch.inference_mode()
    def logits(self, image: Picture, expressions: str | Sequence[str]) -> torch.Tensor:
        """Logits [E, H, W] of several expressions, [H, W] of one, at the size at which the image is shown.

        ``logits.sigmoid()`` is what the model holds for the probability of each pixel. All are far below 0
        where it says that an expression refers to nothing.

        Raises:
            TypeError, InputError: as ``encode``; or of expressions that are no text.
            ArgumentError: no expression, an empty one, or one longer than the text tower takes.
        """
        tokens = self.text.encode(_texts(expressions))
        encoded = self.encode(image)
        (coarse,) = self._coarse([encoded], [tokens])
        logits = to_original_size(coarse, encoded.geometry)
        return logits[0] if isinstance(expressions, str) else logits

    @torch.inference_mode()
    def coarse_logits(
        self, images: Sequence[EncodedImage], expressions: Sequence[Sequence[str]]
    ) -> list[torch.Tensor]:
        """Logits of several images at once, [E, 4h, 4w] of each image's own grid (h, w).

        ``to_original_size`` makes of them what ``logits`` gives, to rounding. Images of one grid share a
        forward pass.

        Args:
            expressions: of each image, at least one.

        Raises:
            ArgumentError, CheckpointError: as ``logits``, of any of them.
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
        """Of images of one grid, [E, 4h, 4w] each."""
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
        """Masks as ``masks`` gives them, and what each expression's words and the image made of each other.

        Raises:
            ConfigError: the model has no mutual-aware attention.
            TypeError, ArgumentError, InputError: as ``logits``.
        """
        read = [self.text.tokenise(text).tokens for text in _texts(expressions)]
        with watched(self.model) as blocks:
            encoded = self.encode(image)
            masks = self.masks(encoded, expressions)
        found = [
            of_expression(blocks, place, text, tokens, encoded.geometry)
            for place, (text, tokens) in enumerate(zip(_texts(expressions), read, strict=True))
        ]
        return masks, found[0] if isinstance(expressions, str) else found


def score_of(logits: torch.Tensor) -> float:
    """Of an expression's ``logits`` [H, W]: the mean probability of its mask's pixels; where the mask is
    empty, the largest of the image's."""
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
