"""The ``tiny`` text tower trained as CLIP was: to match sentences and pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from maris_fast.data_shards.synthetic.meaning import Description, Side, clear_referent
from maris_fast.data_shards.synthetic.phrasing import choose_sentences, worded
from maris_fast.data_shards.synthetic.pretraining.schedule import (
    HELD_OUT,
    PAIRS,
    Optimiser,
    Progress,
    stream,
)
from maris_fast.data_shards.synthetic.rendering import render
from maris_fast.data_shards.synthetic.scene import COLOURS, OUTLINES, SceneObject, sample_scene
from maris_fast.encoders.text import TINY_CONFIG
from maris_fast.encoders.tokens import tokeniser

SIDE = 64
"""Side of the pictures in pixels."""
VISUAL_TOWER = {"layers": (1, 1, 1, 1), "width": 16, "head_width": 64, "image_size": SIDE}
"""A small ResNet, which learns from few pictures what a ViT of this size does not.

Discarded after training: MARIS uses SAM's image encoder."""
PIXEL_MEAN = (0.48145466, 0.4578275, 0.40821073)
PIXEL_STD = (0.26862954, 0.26130258, 0.27577711)
ONE_OBJECT = 0.5
"""Share of pictures that have one object only."""
NAMED = 0.85
"""How often a single object's shape, its colour, and its size or position are mentioned."""
SIDES: tuple[Side, ...] = ("left", "right", "top", "bottom")
MOST_SENTENCES = 3
HELD_OUT_PICTURES = 256


def pretrain_text_encoder(
    *,
    steps: int = 1000,
    pairs: int = 20_000,
    batch: int = 96,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[dict[str, Tensor], float]:
    """Train the text tower on pictures of one to five objects and texts about them.

    Token embeddings start with unit variance, as with ``weights: random``: with open_clip's 0.02 the words of
    a sentence stay too similar.

    Args:
        pairs: number of pictures with a text, drawn once and shown repeatedly.
        batch: pairs per step, each contrasted with all others (Radford et al. 2021).

    Returns:
        The tensors of an open_clip text tower (fp16), and the share of ``HELD_OUT_PICTURES`` pictures of one
        object, unseen in training, whose own "colour shape" is the best match among all such names.
    """
    pictures, ids = _pairs(pairs, seed)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PAIRS,)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = open_clip.CustomTextCLIP(
            embed_dim=TINY_CONFIG["embed_dim"],
            vision_cfg=VISUAL_TOWER,
            text_cfg={**TINY_CONFIG["text_cfg"], "output_tokens": True},
        )
        nn.init.normal_(model.text.token_embedding.weight)
    optimiser = Optimiser([model], steps)
    for step in range(steps):
        which = rng.integers(0, pairs, batch)
        image, text = _towers(model, pictures[which], [ids[one] for one in which])
        logits = model.logit_scale.exp() * image @ text.T
        own = torch.arange(batch)
        loss = (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2
        optimiser.step(loss)
        with torch.no_grad():
            model.logit_scale.clamp_(0, math.log(100))
        if progress is not None:
            progress(step + 1, steps)
    tensors = {name: value.half().contiguous() for name, value in model.text.state_dict().items()}
    return tensors, _zero_shot(model, seed)


def _pairs(number: int, seed: int) -> tuple[NDArray[np.uint8], list[list[int]]]:
    """Pictures [N, SIDE, SIDE, 3], and the tokens of each one's text, start and end included."""
    pictures, ids = np.empty((number, SIDE, SIDE, 3), np.uint8), []
    for index in range(number):
        rng = stream(seed, PAIRS, index)
        objects, said = _one_object(rng) if rng.random() < ONE_OBJECT else _some_objects(rng)
        ids.append(_ids(", ".join(said)))
        pictures[index] = np.asarray(render(objects, SIDE, rng)[0])
    return pictures, ids


def _one_object(rng: np.random.Generator) -> tuple[tuple[SceneObject, ...], list[str]]:
    """One object and a text about it: word meanings are learned fastest if nothing else is visible."""
    (thing,) = objects = sample_scene(rng)[:1]
    description = Description(
        shape=thing.shape if rng.random() < NAMED else None,
        colour=thing.colour if rng.random() < NAMED else None,
    )
    more = [replace(description, side=side) for side in SIDES]
    more += [replace(description, size=size) for size in ("small", "large")]
    true = [one for one in more if clear_referent(one, objects) is not None]
    if true and rng.random() < NAMED:
        description = true[rng.integers(len(true))]
    return objects, [worded(description, rng)]


def _some_objects(rng: np.random.Generator) -> tuple[tuple[SceneObject, ...], list[str]]:
    """Some objects of a scene, and sentences about them like those of the scenes."""
    while True:
        objects = sample_scene(rng)[: rng.integers(2, 6)]
        sentences = choose_sentences(objects, rng)
        if sentences:
            said = rng.permutation([sentence.text for sentence in sentences])
            return objects, list(said[: rng.integers(1, MOST_SENTENCES + 1)])


def _ids(text: str) -> list[int]:
    """Tokens, with start and end."""
    tokens = tokeniser()
    words = tokens.encode(text)[: TINY_CONFIG["text_cfg"]["context_length"] - 2]
    return [tokens.sot_token_id, *words, tokens.eot_token_id]


def _towers(
    model: open_clip.CustomTextCLIP, pictures: NDArray[np.uint8], ids: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Unit vectors [B, embed_dim] of pictures and of texts."""
    pixels = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (PIXEL_MEAN, PIXEL_STD))
    padded = torch.zeros(len(ids), TINY_CONFIG["text_cfg"]["context_length"], dtype=torch.long)
    for row, one in zip(padded, ids, strict=True):
        row[: len(one)] = torch.tensor(one)
    # The tower is causal: positions after the end of the longest text need not be computed.
    longest, whole = max(map(len, ids)), model.text.attn_mask
    model.text.attn_mask = whole[:longest, :longest]
    try:
        text, _ = model.text(padded[:, :longest])
    finally:
        model.text.attn_mask = whole
    return F.normalize(model.visual((pixels - mean) / std), dim=-1), F.normalize(text, dim=-1)


@torch.no_grad()
def _zero_shot(model: open_clip.CustomTextCLIP, seed: int) -> float:
    """Share of single objects whose own colour and shape are the best match among all names."""
    names = [(colour, shape) for colour in COLOURS for shape in OUTLINES]
    pictures, own = np.empty((HELD_OUT_PICTURES, SIDE, SIDE, 3), np.uint8), []
    for index in range(HELD_OUT_PICTURES):
        rng = stream(seed, HELD_OUT, index)
        (thing,) = objects = sample_scene(rng)[:1]
        pictures[index] = np.asarray(render(objects, SIDE, rng)[0])
        own.append(names.index((thing.colour, thing.shape)))
    image, text = _towers(model.eval(), pictures, [_ids(" ".join(name)) for name in names])
    return float(((image @ text.T).argmax(dim=1) == torch.tensor(own)).float().mean())
