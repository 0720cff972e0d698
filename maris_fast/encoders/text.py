"""CLIP's text tower, frozen: one feature per token (the paper's F_l), after the last norm, before pooling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transformer import TextTransformer
from torch import Tensor, nn

from maris_fast.config import RANDOM, TextSettings
from maris_fast.encoders.provenance import TextProvenance
from maris_fast.encoders.safe_weights import load_tensors
from maris_fast.encoders.tokens import tokeniser, tokens_of
from maris_fast.errors import ArgumentError, CheckpointError, ConfigError
from maris_fast.system.files import sha256_of

TINY = "tiny"
TINY_CONFIG: dict[str, Any] = {
    "embed_dim": 64,
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 4, "layers": 2},
}

# open_clip builds a text tower only together with a visual one; this one is discarded at once.
_SMALLEST_VISUAL_TOWER = {"layers": 1, "width": 64, "head_width": 64, "patch_size": 16, "image_size": 16}

# Keys of text towers that are not CLIP's: other tokenizers, attention in both directions, other layouts.
_UNSUPPORTED = ("hf_model_name", "hf_tokenizer_name", "no_causal_mask", "embed_cls", "tokenizer_kwargs")

_TEXT_PARTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")

_BATCH = 256


@dataclass(frozen=True)
class TokenisedText:
    """An expression as the tower reads it: start, words, end."""

    ids: tuple[int, ...]
    tokens: tuple[str, ...]
    """Readable form of the tokens that give features: the words' and the end token, L_t of them."""
    truncated: bool


@dataclass(frozen=True)
class TextFeatures:
    words: Tensor
    """Float32 [L_t, C'], on the tower's device."""
    tokens: tuple[str, ...]
    truncated: bool


class TextEncoder:
    """Token features of expressions, computed by open_clip.

    L_t counts the words' byte-pair tokens and the end token, which has seen the whole expression. The
    start token is omitted: in a causal tower it sees only itself, so it is the same for every
    expression. An expression of more than ``max_words`` such tokens is truncated before it enters the
    tower; its last token is still the end token.

    With a path as ``weights``, ``arch`` says which activation the weights were trained with: OpenAI's need
    ``ViT-L-14-quickgelu``. With a tag, open_clip knows the activation.

    With ``weights: random``, token embeddings are drawn with standard deviation 1 instead of open_clip's
    0.02, with which the first block's output would drown the words: all would look alike after the last norm.

    Args:
        settings: architecture, weights and limits.
        device: where the tower runs.

    Raises:
        ConfigError: an architecture that open_clip does not know or that is not CLIP's own text tower.
        CheckpointError: weights missing, not obtainable, unsafe, or of another architecture.
    """

    def __init__(self, settings: TextSettings, device: torch.device | str = "cpu") -> None:
        config = _model_config(settings.arch)
        source = _source(settings)
        quick_gelu = bool(config.get("quick_gelu", False) or source.quick_gelu)
        tower = _build(settings, config, quick_gelu, source.path)
        self.tower = tower.to(device).requires_grad_(False).eval()
        self.device = torch.device(device)
        self.channels: int = config["text_cfg"]["width"]
        self.context_length: int = config["text_cfg"].get("context_length", 77)
        self.max_words = settings.max_words
        self.provenance = TextProvenance(
            library=f"open_clip {version('open_clip_torch')}",
            arch=settings.arch,
            weights=source.name,
            sha256=sha256_of(source.path) if source.path else None,
            seed=None if source.path else settings.seed,
            channels=self.channels,
            quick_gelu=quick_gelu,
            context_length=self.context_length,
            max_words=settings.max_words,
        )

    def tokenise(self, text: str) -> TokenisedText:
        """Tokens of one expression, truncated to ``max_words``.

        Raises:
            ArgumentError: an expression without a word, or longer than the tower takes.
        """
        words = tokens_of(text)
        if not words.ids:
            raise ArgumentError(
                f"the expression {text!r} holds no word; remove it or write what it refers to"
            )
        if len(words.ids) + 2 > self.context_length:
            raise ArgumentError(
                f"the expression {text!r} has {len(words.ids) + 2} tokens with start and end, the text tower "
                f"{self.provenance.arch} takes {self.context_length}; shorten it"
            )
        most = self.max_words - 1
        ids = (tokeniser().sot_token_id, *words.ids[:most], tokeniser().eot_token_id)
        return TokenisedText(ids, (*words.names[:most], "<end>"), truncated=most < len(words.ids))

    def encode(self, texts: Sequence[str]) -> list[TextFeatures]:
        """Features of each expression.

        Raises:
            ArgumentError: see ``tokenise``.
        """
        tokenised = [self.tokenise(text) for text in texts]
        features: list[TextFeatures] = []
        for start in range(0, len(tokenised), _BATCH):
            features += self._encode_batch(tokenised[start : start + _BATCH])
        return features

    def padded_ids(self, batch: Sequence[TokenisedText]) -> Tensor:
        """Ids [E, L] on the tower's device; after the end token zeros, which no token of the text sees."""
        ids = torch.zeros(len(batch), max(len(text.ids) for text in batch), dtype=torch.long)
        for row, text in zip(ids, batch, strict=True):
            row[: len(text.ids)] = torch.tensor(text.ids)
        return ids.to(self.device)

    def token_features(self, ids: Tensor) -> Tensor:
        """Token ids [E, L], L at most ``context_length``, to features [E, L, C'] after the last norm."""
        length, tower = ids.shape[1], self.tower
        # As its ``forward``, which adds the causal mask uncropped and so accepts only one length.
        x = tower.token_embedding(ids) + tower.positional_embedding[:length]
        causal = torch.full((length, length), -math.inf, device=ids.device).triu(1)
        x = tower.transformer(x, attn_mask=causal)
        features: Tensor = tower.ln_final(x)
        return features

    @torch.no_grad()
    def _encode_batch(self, batch: list[TokenisedText]) -> list[TextFeatures]:
        tokens = self.token_features(self.padded_ids(batch))
        return [
            TextFeatures(row[1 : len(text.ids)].float().clone(), text.tokens, text.truncated)
            for row, text in zip(tokens, batch, strict=True)
        ]


@dataclass(frozen=True)
class _TextWeights:
    name: str
    path: Path | None
    quick_gelu: bool


def _model_config(arch: str) -> dict[str, Any]:
    if arch == TINY:
        return TINY_CONFIG
    config = open_clip.get_model_config(arch)
    if config is None:
        raise ConfigError(
            f"encoders.text.arch = {arch!r} is not a model of open_clip; "
            f"open_clip.list_models() names them, and {TINY!r} is a small one for trials"
        )
    unsupported = [key for key in _UNSUPPORTED if config["text_cfg"].get(key)]
    if unsupported or "multimodal_cfg" in config:
        raise ConfigError(
            f"encoders.text.arch = {arch!r} has a text tower that is not CLIP's own "
            f"({', '.join(unsupported) or 'multimodal_cfg'}); choose one such as 'ViT-L-14'"
        )
    return config


def _source(settings: TextSettings) -> _TextWeights:
    """Where the weights come from: nowhere (random), a tag of open_clip, or a file."""
    if settings.weights == RANDOM:
        return _TextWeights(RANDOM, None, quick_gelu=False)
    if settings.arch == TINY and not Path(settings.weights).is_file():
        raise ConfigError(
            f"encoders.text.arch = {TINY!r} has no trained weights but your own; set encoders.text.weights "
            f"to {RANDOM!r} or a file (it is {settings.weights!r}), or encoders.text.arch to 'ViT-L-14'"
        )
    tag = open_clip.get_pretrained_cfg(settings.arch, settings.weights)
    if tag:
        try:
            path = Path(open_clip.download_pretrained(tag))
        except Exception as error:  # anything that the network, the hub's client or the disk may raise
            raise CheckpointError(
                f"open_clip could not get the weights {settings.weights!r} of {settings.arch}: {error}. "
                f"On a machine with a network, load them once and copy open_clip_model.safetensors from "
                f"huggingface.co/{tag.get('hf_hub', '').rstrip('/') or settings.arch}; then set "
                f"encoders.text.weights to the file's path"
                + (
                    f" and encoders.text.arch to '{settings.arch.removesuffix('-quickgelu')}-quickgelu'"
                    if tag.get("quick_gelu")
                    else ""
                )
            ) from error
        return _TextWeights(settings.weights, path, bool(tag.get("quick_gelu", False)))
    path = Path(settings.weights)
    if not path.is_file():
        raise CheckpointError(
            f"encoders.text.weights = {settings.weights!r} is neither a file nor a tag that open_clip knows "
            f"for {settings.arch}; tags: {', '.join(open_clip.list_pretrained_tags_by_model(settings.arch))}"
        )
    return _TextWeights(path.name, path, quick_gelu=False)


def _build(
    settings: TextSettings, config: dict[str, Any], quick_gelu: bool, path: Path | None
) -> TextTransformer:
    if path is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            tower = _empty(config, quick_gelu)
            nn.init.normal_(tower.token_embedding.weight)
        return tower
    tensors = load_tensors(
        path, setting="encoders.text.weights", where_to_get_it="open_clip's list of pretrained models"
    )
    tower = _empty(config, quick_gelu)
    part = _text_part(tensors)
    width = config["text_cfg"]["width"]
    if "ln_final.weight" not in part:
        raise CheckpointError(
            f"{path} holds no text tower in open_clip's layout (no ln_final.weight); "
            "encoders.text.weights must be an open_clip state dict or a tag"
        )
    if part["ln_final.weight"].shape[0] != width:
        raise CheckpointError(
            f"{path} has a text tower of width {part['ln_final.weight'].shape[0]}, "
            f"encoders.text.arch = {settings.arch} needs {width}; change one of them"
        )
    try:
        tower.load_state_dict(part)
    except RuntimeError as error:
        raise CheckpointError(f"{path} does not fit encoders.text.arch = {settings.arch}: {error}") from error
    return tower


def _empty(config: dict[str, Any], quick_gelu: bool) -> TextTransformer:
    model = open_clip.CustomTextCLIP(
        embed_dim=config["embed_dim"],
        vision_cfg=_SMALLEST_VISUAL_TOWER,
        text_cfg={**config["text_cfg"], "output_tokens": True},
        quick_gelu=quick_gelu,
    )
    return model.text


def _text_part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The text tower's tensors in either layout of open_clip: beside the visual tower, or below ``text.``."""
    bare = {name.removeprefix("text."): value for name, value in tensors.items()}
    return {name: value for name, value in bare.items() if name.startswith(_TEXT_PARTS)}
