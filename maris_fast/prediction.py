"""From an image and a sentence to a mask, with the encoders that made the model's training features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from maris_fast.attention import Attention, of_expression, watched
from maris_fast.config import RANDOM, SamSettings, TextSettings
from maris_fast.encoders import EncodersProvenance, SamEncoder, TextEncoder, TextFeatures
from maris_fast.encoders.placement import usable
from maris_fast.encoders.provenance import EncoderProvenance
from maris_fast.errors import CheckpointError, first_of
from maris_fast.geometry import ImageGeometry, to_original_size
from maris_fast.images import as_shown
from maris_fast.weights import caution, load_model


@dataclass(frozen=True)
class EncodedImage:
    """What SAM makes of an image, all that a predictor needs of it: sentences can follow one by one."""

    features: tuple[torch.Tensor, torch.Tensor, torch.Tensor]
    """F_v1, F_v2, F_v3, float32 [h, w, C_v] on the predictor's device."""
    geometry: ImageGeometry
    """Of the image; (h, w) is its grid."""


class Predictor:
    """A trained model with its frozen encoders.

    An image is encoded each time that it is given; where more sentences may come, give what ``encode`` made
    of it.

    Args:
        weights: a ``best.safetensors`` or ``last.safetensors`` that training wrote.
        sam_weights, text_weights: paths (or open_clip tag) of the encoders' weights; None where the model
            was trained on random ones, which its header can make again.
        device: where everything runs.

    Raises:
        ConfigError: a device that is not here.
        CheckpointError: weights missing, unsafe, or other than those the features were made with.
    """

    def __init__(
        self,
        weights: Path,
        *,
        sam_weights: str | None = None,
        text_weights: str | None = None,
        device: torch.device | str = "cpu",
    ) -> None:
        self.device = usable(device)
        self.model, self.meta = load_model(weights, self.device)
        made_with = _encoders_of(weights, self.meta.encoders)
        self.sam = SamEncoder(_sam_settings(made_with, sam_weights), self.device)
        self.text = TextEncoder(_text_settings(made_with, text_weights), self.device)
        loaded = EncodersProvenance(sam=self.sam.provenance, text=self.text.provenance)
        if differences := loaded.differences(made_with):
            raise CheckpointError(
                f"these encoders are not the ones {weights} was trained with: {'; '.join(differences)}; "
                "give their weights with --sam-weights and --text-weights"
            )

    @property
    def caution(self) -> str | None:
        """What to know before believing a mask: that encoders are random; None if none is."""
        return caution(self.meta.random_encoders)

    @torch.inference_mode()
    def encode(self, image: Image.Image) -> EncodedImage:
        """SAM's features of an image, turned as its EXIF data say, if it still has any.

        On a GPU they may still be under way when this returns.

        Raises:
            InputError: an image that cannot be decoded (``as_shown``), or so narrow that its short side would
                vanish.
        """
        image = as_shown(image)
        geometry = self.sam.grid(image.height, image.width)
        (features,) = self.sam.encode([image])
        return EncodedImage(features, geometry)

    @torch.inference_mode()
    def logits(self, image: Image.Image | EncodedImage, expressions: Sequence[str]) -> torch.Tensor:
        """Logits [E, height, width] at the size at which the image is shown, one for each expression.

        They are far below 0 where the model says that an expression refers to nothing.

        Raises:
            InputError: an empty expression, or one longer than the text tower takes.
        """
        encoded = self._encoded(image)
        words, word_mask = _padded(self.text.encode(expressions))
        expr_offsets = torch.tensor([0, len(expressions)], dtype=torch.int32, device=self.device)
        said = self.model([level[None] for level in encoded.features], words, word_mask, expr_offsets)
        said.require_finite()
        return to_original_size(said.answer(), encoded.geometry)

    def masks(self, image: Image.Image | EncodedImage, expressions: Sequence[str]) -> NDArray[np.bool_]:
        """Masks bool [E, height, width]: where the logits are above 0."""
        return (self.logits(image, expressions) > 0).cpu().numpy()

    def attention(
        self, image: Image.Image | EncodedImage, expressions: Sequence[str]
    ) -> tuple[NDArray[np.bool_], list[Attention]]:
        """Masks as ``masks`` gives them, and what each expression's words and the image made of each other.

        Raises:
            ConfigError: the model has no mutual-aware attention.
            InputError: as ``logits``.
        """
        with watched(self.model) as blocks:
            encoded = self._encoded(image)
            masks = self.masks(encoded, expressions)
        return masks, [
            of_expression(blocks, place, text, self.text.tokenise(text).tokens, encoded.geometry)
            for place, text in enumerate(expressions)
        ]

    def _encoded(self, image: Image.Image | EncodedImage) -> EncodedImage:
        return image if isinstance(image, EncodedImage) else self.encode(image)


def _padded(texts: Sequence[TextFeatures]) -> tuple[torch.Tensor, torch.Tensor]:
    words = torch.nn.utils.rnn.pad_sequence([text.words for text in texts], batch_first=True)
    lengths = torch.tensor([len(text.words) for text in texts], device=words.device)
    return words, torch.arange(words.shape[1], device=words.device) < lengths[:, None]


def _encoders_of(weights: Path, said: dict[str, Any]) -> EncodersProvenance:
    try:
        return EncodersProvenance.model_validate(said)
    except ValidationError as error:
        raise CheckpointError(
            f"the header of {weights} does not describe its encoders: {first_of(error)}"
        ) from error


def _sam_settings(made_with: EncodersProvenance, weights: str | None) -> SamSettings:
    sam = made_with.sam
    return SamSettings(
        arch=sam.arch,
        weights=RANDOM if sam.random else _needed(weights, sam, "--sam-weights"),
        image_size=sam.image_size,
        seed=sam.seed or 0,
    )


def _text_settings(made_with: EncodersProvenance, weights: str | None) -> TextSettings:
    text = made_with.text
    return TextSettings(
        arch=text.arch,
        weights=RANDOM if text.random else _needed(weights, text, "--text-weights"),
        max_words=text.max_words,
        seed=text.seed or 0,
    )


def _needed(weights: str | None, made_with: EncoderProvenance, option: str) -> str:
    if weights is None:
        raise CheckpointError(
            f"the model was trained on features of {made_with.arch} with the weights {made_with.weights}; "
            f"say where they are with {option}"
        )
    return weights
