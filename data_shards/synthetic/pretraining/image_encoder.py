"""``vit_tiny`` trained as SAM was: one point in, the mask of the object under it out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from segment_anything.modeling import MaskDecoder, PromptEncoder, TwoWayTransformer
from torch import Tensor, nn

from maris_fast.config import LossSettings
from maris_fast.data_shards.synthetic.pretraining.schedule import (
    HELD_OUT,
    PICTURES,
    Optimiser,
    Progress,
    stream,
)
from maris_fast.data_shards.synthetic.rendering import render
from maris_fast.data_shards.synthetic.scene import sample_scene
from maris_fast.encoders.sam import ARCHITECTURES, PIXEL_MEAN, PIXEL_STD, empty_encoder, sine_cosine_positions
from maris_fast.geometry import PATCH
from maris_fast.losses import expression_losses

ARCH = "vit_tiny"
WIDTH = 256
"""Channels of SAM's prompt encoder and mask decoder, and of the neck whose output they take."""
SIZES = (160, 256)
"""Sides of the pictures in pixels, one drawn at random per step: caches are built at several."""
POINTS, HELD_OUT_POINTS = 2, 3
"""Points per picture, each a random pixel of a random object."""
HELD_OUT_PICTURES = 32
LOSS = LossSettings(focal_weight=20.0)
"""SAM's ratio of 20 to 1 between focal and dice loss."""


@dataclass(frozen=True)
class Pictures:
    """``rgb``: uint8 [N, H, W, 3]; ``objects``: uint8 [N, H, W], 0 for the background, else 1 + object."""

    rgb: NDArray[np.uint8]
    objects: NDArray[np.uint8]
    counts: NDArray[np.int64]

    @classmethod
    def draw(cls, number: int, seed: int, which: int) -> Pictures:
        side = max(SIZES)
        rgb = np.empty((number, side, side, 3), np.uint8)
        objects = np.zeros((number, side, side), np.uint8)
        counts = np.empty(number, np.int64)
        for index in range(number):
            rng = stream(seed, which, index)
            picture, masks = render(sample_scene(rng), side, rng)
            rgb[index] = np.asarray(picture)
            for number_of, mask in enumerate(masks, start=1):
                objects[index][mask] = number_of
            counts[index] = len(masks)
        return cls(rgb, objects, counts)


class Promptable(nn.Module):
    """The encoder with SAM's prompt encoder and mask decoder, the latter with a small feed-forward."""

    def __init__(self) -> None:
        super().__init__()
        architecture = ARCHITECTURES[ARCH]
        side = architecture.image_size // PATCH
        self.image_encoder = empty_encoder(architecture, architecture.image_size)
        with torch.no_grad():
            self.image_encoder.pos_embed.copy_(sine_cosine_positions(side, architecture.width))
        self.prompts = PromptEncoder(
            embed_dim=WIDTH,
            image_embedding_size=(side, side),
            input_image_size=(architecture.image_size, architecture.image_size),
            mask_in_chans=16,
        )
        two_way = TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=WIDTH, num_heads=8)
        self.decoder = MaskDecoder(transformer_dim=WIDTH, transformer=two_way)

    def forward(self, pixels: Tensor, points: Tensor) -> Tensor:
        """Logits [B P, 4 h, 4 w] of pixels [B, 3, H, W] and points [B, P, 2] (x, y in 256 x 256 pixels)."""
        vit, side = self.image_encoder, pixels.shape[-1] // PATCH
        positions = vit.pos_embed.permute(0, 3, 1, 2)
        positions = F.interpolate(positions, (side, side), mode="bilinear", align_corners=False)
        tokens = vit.patch_embed(pixels) + positions.permute(0, 2, 3, 1)
        for block in vit.blocks:
            tokens = block(tokens)
        image = vit.neck(tokens.permute(0, 3, 1, 2)) + self.prompts.no_mask_embed.weight.view(1, -1, 1, 1)
        each = points.flatten(0, 1)[:, None]
        prompts, _ = self.prompts(points=(each, torch.ones(each.shape[:2])), boxes=None, masks=None)
        own = torch.cat([self.decoder.iou_token.weight, self.decoder.mask_tokens.weight])
        tokens = torch.cat([own[None].expand(len(each), -1, -1), prompts], dim=1)
        image = image.repeat_interleave(points.shape[1], dim=0)
        dense = self.prompts.pe_layer((side, side))[None].expand(len(each), -1, -1, -1)
        seen, image = self.decoder.transformer(image, dense, tokens)
        upscaled = self.decoder.output_upscaling(image.transpose(1, 2).reshape(len(each), WIDTH, side, side))
        return torch.einsum("bc,bchw->bhw", self.decoder.output_hypernetworks_mlps[0](seen[:, 1]), upscaled)


def pretrain_image_encoder(
    *,
    steps: int = 1500,
    pictures: int = 3000,
    batch: int = 8,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[dict[str, Tensor], float]:
    """Train ``vit_tiny`` on separate scenes.

    Args:
        pictures: number of pictures, drawn once and shown repeatedly.
        batch: pictures per step.

    Returns:
        The tensors of a checkpoint like SAM's (``image_encoder.*``, fp16), and the mean IoU of masks from
        points on ``HELD_OUT_PICTURES`` pictures that training did not see.
    """
    drawn = Pictures.draw(pictures, seed, PICTURES)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PICTURES,)))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Promptable()
    optimiser = Optimiser([model], steps)
    for step in range(steps):
        which = rng.integers(0, pictures, batch)
        pixels, prompts, masks = _batch(drawn, which, POINTS, SIZES[rng.integers(len(SIZES))], rng)
        logits = model(pixels, prompts)
        loss = expression_losses(logits, masks, LOSS).total.mean()
        optimiser.step(loss)
        if progress is not None:
            progress(step + 1, steps)
    encoder = model.image_encoder.state_dict()
    tensors = {f"image_encoder.{name}": value.half().contiguous() for name, value in encoder.items()}
    return tensors, _point_iou(model, seed)


def _batch(
    pictures: Pictures, which: NDArray[np.int64], points: int, side: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels [B, 3, side, side], points [B, P, 2], masks [B P, side / 4, side / 4]."""
    pixels = torch.from_numpy(pictures.rgb[which]).permute(0, 3, 1, 2).float()
    if side != pixels.shape[-1]:
        pixels = F.interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (PIXEL_MEAN, PIXEL_STD))
    places, masks = [], []
    for picture in which:
        for thing in rng.integers(1, pictures.counts[picture] + 1, points):
            mask = pictures.objects[picture] == thing
            rows, columns = np.nonzero(mask)
            pixel = rng.integers(len(rows))
            places.append((columns[pixel] + 0.5, rows[pixel] + 0.5))
            masks.append(mask)
    prompts = torch.tensor(np.array(places), dtype=torch.float32).view(len(which), points, 2)
    whole = torch.from_numpy(np.array(masks))[:, None].float()
    small = F.interpolate(whole, (side // 4, side // 4), mode="area")
    return (pixels - mean) / std, prompts, (small[:, 0] > 0.5).float()


@torch.no_grad()
def _point_iou(model: Promptable, seed: int) -> float:
    pictures = Pictures.draw(HELD_OUT_PICTURES, seed, HELD_OUT)
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(HELD_OUT,)))
    ious = []
    for which in np.arange(HELD_OUT_PICTURES).reshape(-1, 8):
        pixels, prompts, masks = _batch(pictures, which, HELD_OUT_POINTS, max(SIZES), rng)
        predicted, true = model(pixels, prompts) > 0, masks > 0
        union = (predicted | true).sum((1, 2)).clamp(min=1)
        ious.append((predicted & true).sum((1, 2)) / union)
    return float(torch.cat(ious).mean())
