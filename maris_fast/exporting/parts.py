"""The parts that can be exported: the trained head, and the frozen encoders before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maris_fast.config import ModelSettings
from maris_fast.encoders import SamEncoder, TextEncoder
from maris_fast.errors import ConfigError
from maris_fast.geometry import MASK_STRIDE, ImageGeometry
from maris_fast.model import Maris
from maris_fast.weights import WeightsMeta

IMPLEMENTATIONS = {
    "mutual_attention_impl": "reference",
    "attention_impl": "sdpa",
    "cross_attention_impl": "projected",
}
"""Settings of the exported head: plain PyTorch, whatever it was trained with; the results are the same."""


POOLED_SIDES = 3, 4096
"""Bounds of a grid's side in tokens with pooled keys: torch.export specialises on a single pair."""


class Slot(NamedTuple):
    """An input or output: its dtype and its shape, with free dimensions by name."""

    dtype: torch.dtype
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Part:
    """A module that takes tensors by name, and returns a dictionary of them.

    Attributes:
        sides: minimum and maximum of free dimensions that are bounded; the others are 1 or more.
        examples: inputs of several sizes, to compare an exported file with the module.
    """

    name: str
    module: nn.Module
    inputs: Mapping[str, Slot]
    outputs: Mapping[str, Slot]
    examples: Sequence[Mapping[str, Tensor]]
    sides: Mapping[str, tuple[int, int]] = field(default_factory=dict)


class Head(nn.Module):
    """Maps an image's features and expressions to masks of the image's own size.

    Args:
        model: used for evaluation only.
        image_size: longest side of resized images, from SAM's provenance.
    """

    def __init__(self, model: Maris, image_size: int) -> None:
        super().__init__()
        self.model = model
        self.image_size = image_size

    def forward(
        self,
        features_1: Tensor,
        features_2: Tensor,
        features_3: Tensor,
        words: Tensor,
        word_mask: Tensor,
        size: Tensor,
    ) -> dict[str, Tensor]:
        """Masks of E expressions about one image.

        Args:
            features_1, features_2, features_3: F_v1, F_v2, F_v3 [h, w, C_v].
            words: F_l [E, L_t, C'].
            word_mask: bool [E, L_t].
            size: int64 [2], height and width of the image before it was resized.

        Returns:
            logits [E, 4h, 4w]; masks, bool [E, height, width], empty if there is nothing to segment;
            no_target [E], if the model has this output.
        """
        f_v, grid = self.model.visual_tokens([f[None] for f in (features_1, features_2, features_3)])
        tokens = f_v.expand(words.shape[0], -1, -1)
        said = self.model.of_tokens(tokens, grid, words, word_mask, None)
        outputs = {"logits": said.logits, "masks": self._at_own_size(said.answer(), size) > 0}
        return outputs if said.no_target is None else {**outputs, "no_target": said.no_target}

    def _at_own_size(self, logits: Tensor, size: Tensor) -> Tensor:
        """``geometry.to_original_size`` for a size that is known only at run time."""
        padded = F.interpolate(
            logits[:, None], scale_factor=MASK_STRIDE, mode="bilinear", align_corners=False
        )
        resized = resized_to(size, self.image_size).tolist()
        for side, most in zip(resized, padded.shape[2:], strict=True):
            torch._check(side >= 1)
            torch._check(side <= most)
        height, width = size.tolist()
        torch._check(height >= 1)
        torch._check(width >= 1)
        image = padded[..., : resized[0], : resized[1]]
        return F.interpolate(image, (height, width), mode="bilinear", align_corners=False)[:, 0]


class ImageEncoder(nn.Module):
    """SAM's image encoder, with its normalisation, padding and cropping.

    Maps the resized image, uint8 [h_px, w_px, 3], to F_v1, F_v2, F_v3 [h, w, C_v].
    """

    def __init__(self, encoder: SamEncoder) -> None:
        super().__init__()
        self.vit = encoder.vit
        self.encoder = encoder

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        (levels,) = self.encoder.encode_resized([image.permute(2, 0, 1)])
        return {f"features_{place}": level for place, level in enumerate(levels, start=1)}


class WordEncoder(nn.Module):
    """CLIP's text tower: token ids [E, L], zero after the end token, to words [E, L - 1, C'] and their mask.

    The start token, which is the same for all expressions, gives no word.
    """

    def __init__(self, encoder: TextEncoder) -> None:
        super().__init__()
        self.tower = encoder.tower
        self.encoder = encoder

    def forward(self, ids: Tensor) -> dict[str, Tensor]:
        features = self.encoder.token_features(ids)[:, 1:]
        last = ids.argmax(1)  # the end token has the largest id
        word_mask = torch.arange(features.shape[1], device=ids.device) < last[:, None]
        return {"words": features.masked_fill(~word_mask[..., None], 0), "word_mask": word_mask}


def resized_to(size: Tensor, image_size: int) -> Tensor:
    """Height and width, int64 [2], exactly those of ``ImageGeometry.of(*size, image_size)``."""
    scale = torch.full((), image_size, dtype=torch.float64, device=size.device) / size.max().double()
    return (size.double() * scale + 0.5).long()


def head_of(model: Maris, meta: WeightsMeta) -> Part:
    """The trained model, from features to masks.

    Raises:
        ConfigError: the model has a part that cannot be exported for grids of any size.
    """
    if model.settings.enhancement == "vit_det":
        raise ConfigError(
            "a model with enhancement = vit_det cannot be exported: it pools odd and even sides of a grid in "
            "different ways, and an exported program is for one of them"
        )
    settings = ModelSettings.model_validate({**model.settings.model_dump(), **IMPLEMENTATIONS})
    portable = Maris(settings, meta.visual_channels, meta.text_channels)
    portable.load_state_dict(model.state_dict())
    portable.tau = model.tau
    image_size = meta.encoders.sam.image_size
    inputs = {
        **_features(meta.visual_channels),
        "words": Slot(torch.float32, ("expressions", "words", meta.text_channels)),
        "word_mask": Slot(torch.bool, ("expressions", "words")),
        "size": Slot(torch.int64, (2,)),
    }
    outputs = {
        "logits": Slot(torch.float32, ("expressions", "4*h", "4*w")),
        "masks": Slot(torch.bool, ("expressions", "height", "width")),
    }
    if settings.no_target:
        outputs["no_target"] = Slot(torch.float32, ("expressions",))
    pooled = settings.decoder_self_attention == "pooled"
    sides = dict.fromkeys(("h", "w"), POOLED_SIDES) if pooled else {}
    narrow = 200 if pooled else 31
    examples = [_head_example(meta, *case) for case in ((600, 2 * narrow, 3, 5), (narrow, 200, 1, 1))]
    return Part("head", _frozen(Head(portable, image_size)), inputs, outputs, examples, sides)


def image_encoder_of(encoder: SamEncoder) -> Part:
    """SAM's image encoder, from the resized image to the features."""
    inputs = {"image": Slot(torch.uint8, ("height", "width", 3))}
    longest = encoder.image_size
    examples = [
        {"image": torch.randint(256, (*sides, 3), generator=_seeded(), dtype=torch.uint8)}
        for sides in ((1, longest), (longest, longest // 2 + 1))
    ]
    return Part(
        "image_encoder",
        _frozen(ImageEncoder(encoder)),
        inputs,
        _features(encoder.channels),
        examples,
        sides={side: (1, longest) for side in ("height", "width")},
    )


def text_encoder_of(encoder: TextEncoder) -> Part:
    """CLIP's text tower, from token ids to words."""
    inputs = {"ids": Slot(torch.int64, ("expressions", "tokens"))}
    outputs = {
        "words": Slot(torch.float32, ("expressions", "tokens - 1", encoder.channels)),
        "word_mask": Slot(torch.bool, ("expressions", "tokens - 1")),
    }
    texts = (["the red mug", "dog", "woman on the left of the picture"], ["kettle"])
    examples = [{"ids": encoder.padded_ids([encoder.tokenise(text) for text in some])} for some in texts]
    sides = {"tokens": (3, encoder.context_length)}
    return Part("text_encoder", _frozen(WordEncoder(encoder)), inputs, outputs, examples, sides)


def _features(channels: int) -> dict[str, Slot]:
    return {f"features_{level}": Slot(torch.float32, ("h", "w", channels)) for level in (1, 2, 3)}


def _head_example(
    meta: WeightsMeta, height: int, width: int, expressions: int, words: int
) -> dict[str, Tensor]:
    generator = _seeded()
    grid = ImageGeometry.of(height, width, meta.encoders.sam.image_size).grid
    lengths = torch.arange(expressions) % words + 1
    return {
        **{
            name: torch.randn(*grid, meta.visual_channels, generator=generator)
            for name in _features(meta.visual_channels)
        },
        "words": torch.randn(expressions, words, meta.text_channels, generator=generator),
        "word_mask": torch.arange(words) < lengths[:, None],
        "size": torch.tensor([height, width]),
    }


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _frozen(module: nn.Module) -> nn.Module:
    return module.requires_grad_(False).eval()
