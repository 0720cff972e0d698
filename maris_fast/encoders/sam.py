"""SAM's image encoder, frozen: three maps of tokens per image (F_v1, F_v2, F_v3 of the paper)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from segment_anything.modeling import ImageEncoderViT
from segment_anything.utils.transforms import ResizeLongestSide
from torch import Tensor, nn

from maris_fast.config import RANDOM, SamSettings
from maris_fast.encoders.provenance import SamProvenance
from maris_fast.encoders.safe_weights import load_tensors
from maris_fast.encoders.sam_attention import DecomposedAttention
from maris_fast.errors import CheckpointError, ConfigError
from maris_fast.geometry import PATCH, ImageGeometry
from maris_fast.system.files import sha256_of

# From segment_anything/build_sam.py, which keeps them inside a function that builds all of SAM.
PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)

WHERE_TO_GET_SAM = (
    "the list of checkpoints in segment-anything's README "
    "(github.com/facebookresearch/segment-anything: sam_vit_h_4b8939.pth, sam_vit_l_0b3195.pth, "
    "sam_vit_b_01ec64.pth)"
)


@dataclass(frozen=True)
class SamArchitecture:
    """Hyperparameters of an ImageEncoderViT; ``global_blocks`` attend over the whole image."""

    width: int
    depth: int
    heads: int
    global_blocks: tuple[int, int, int, int]
    window: int
    image_size: int


ARCHITECTURES = {
    "vit_h": SamArchitecture(1280, 32, 16, (7, 15, 23, 31), 14, 1024),
    "vit_l": SamArchitecture(1024, 24, 16, (5, 11, 17, 23), 14, 1024),
    "vit_b": SamArchitecture(768, 12, 12, (2, 5, 8, 11), 14, 1024),
    # Not one of SAM's: small enough for a laptop, but of the same class and with the same kinds of block.
    "vit_tiny": SamArchitecture(128, 8, 4, (1, 3, 5, 7), 8, 256),
}


class SamEncoder:
    """The outputs of the last three global attention blocks, cropped to each image's own grid.

    Images are prepared as in SAM: longest side resized to ``image_size``, normalised, padded with zeros to a
    square. Tokens of the padding take part in attention, as in SAM's training, and are then cropped.

    With ``weights: random``, sine-cosine positions are written into the position embedding:
    segment-anything initialises it to zero, so a random encoder would have no positions, unlike any
    trained SAM.

    With an ``image_size`` other than the checkpoint's, position embeddings are interpolated: bilinearly
    for the image, linearly for the relative positions of global blocks.

    Args:
        settings: architecture, weights and image size.
        device: where the encoder runs.
        precision: ``torch.bfloat16`` runs it under autocast.

    Raises:
        CheckpointError: weights missing, unsafe, or of another architecture.
        ConfigError: an image size that is not a multiple of the patch.
    """

    levels = 3

    def __init__(
        self,
        settings: SamSettings,
        device: torch.device | str = "cpu",
        precision: torch.dtype = torch.float32,
    ) -> None:
        architecture = ARCHITECTURES[settings.arch]
        self.image_size = settings.image_size or architecture.image_size
        if self.image_size % PATCH:
            raise ConfigError(
                f"encoders.sam.image_size = {self.image_size} is not a multiple of {PATCH}, the patch's side"
            )
        self.channels = architecture.width
        self.blocks = architecture.global_blocks[1:]
        self.device = torch.device(device)
        self.precision = precision
        self.vit = (
            _build(settings, architecture, self.image_size).to(self.device).requires_grad_(False).eval()
        )
        if settings.attention == "sdpa":
            for block in self.vit.blocks:
                block.attn = DecomposedAttention(block.attn)
        self.provenance = _provenance(settings, self.image_size, self.channels, self.blocks)
        self._resize = ResizeLongestSide(self.image_size)
        self._mean = torch.tensor(PIXEL_MEAN, device=self.device).view(3, 1, 1)
        self._std = torch.tensor(PIXEL_STD, device=self.device).view(3, 1, 1)

    def grid(self, height: int, width: int) -> ImageGeometry:
        """Geometry of an image of this size: its grid is the size of its feature maps."""
        return ImageGeometry.of(height, width, self.image_size)

    def resize(self, image: Image.Image) -> Tensor:
        """Uint8 [3, h_px, w_px] on the CPU, pinned for a GPU; threads may run it ahead of the encoder."""
        resized = self._resize.apply_image(np.asarray(image.convert("RGB")))
        pixels = torch.from_numpy(resized).permute(2, 0, 1).contiguous()
        return pixels.pin_memory() if self.device.type == "cuda" else pixels

    def normalise(self, pixels: Tensor) -> Tensor:
        """Float [3, image_size, image_size] on the encoder's device, zero beyond the resized image."""
        pixels = pixels.to(self.device, non_blocking=True).float()
        normalised = (pixels - self._mean) / self._std
        _, h_px, w_px = normalised.shape
        return F.pad(normalised, (0, self.image_size - w_px, 0, self.image_size - h_px))

    def preprocess(self, image: Image.Image) -> Tensor:
        """Float [3, image_size, image_size]: resized, normalised, zero beyond the image."""
        return self.normalise(self.resize(image))

    def encode(self, images: Sequence[Image.Image]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Features of each image; see ``encode_resized``."""
        return self.encode_resized([self.resize(image) for image in images])

    @torch.no_grad()
    def encode_resized(self, images: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Features of images that ``resize`` has prepared.

        Returns:
            For each image its three levels, float32 [h, w, C_v] on the encoder's device, where (h, w) is
            the image's own grid. On a GPU the work may still be running when this returns.
        """
        batch = torch.stack([self.normalise(pixels) for pixels in images])
        with self._autocast():
            maps = self._global_block_outputs(batch)  # three of [B, H, W, C_v]
        features = []
        for i, pixels in enumerate(images):
            # ONNX divides integers towards zero, so none may be negative.
            h, w = ((side + PATCH - 1) // PATCH for side in pixels.shape[1:])
            first, second, third = (level[i, :h, :w].float() for level in maps)
            features.append((first, second, third))
        return features

    def _global_block_outputs(self, pixels: Tensor) -> list[Tensor]:
        tokens = self.vit.patch_embed(pixels) + self.vit.pos_embed
        outputs = []
        for index, block in enumerate(self.vit.blocks):
            tokens = block(tokens)
            if index in self.blocks:
                outputs.append(tokens)
        return outputs

    def _autocast(self) -> AbstractContextManager[None]:
        reduced = self.precision != torch.float32
        return torch.autocast(self.device.type, self.precision, enabled=reduced)


def sine_cosine_positions(side: int, channels: int) -> Tensor:
    """Fixed positions for a square grid, [1, side, side, channels].

    Half of the channels hold the row, half the column, as sines and cosines of frequencies spaced
    geometrically from a quarter of a period over the image, which is monotonic, to one period in four
    tokens. Each is between -1 and 1, about as large as the patch embedding of a plain coloured patch.
    """
    if channels % 4:
        raise ValueError(f"channels = {channels} is not a multiple of 4")
    position = (torch.arange(side) + 0.5) / side
    lowest, highest = 0.25, max(side / 4, 0.25)
    count = channels // 4
    frequency = lowest * (highest / lowest) ** (torch.arange(count) / max(count - 1, 1))
    angle = 2 * math.pi * position[:, None] * frequency  # [side, channels / 4]
    axis = torch.cat([angle.sin(), angle.cos()], dim=1)  # [side, channels / 2]
    rows = axis[:, None].expand(side, side, -1)
    columns = axis[None].expand(side, side, -1)
    return torch.cat([rows, columns], dim=-1)[None]


def _build(settings: SamSettings, architecture: SamArchitecture, image_size: int) -> ImageEncoderViT:
    if settings.weights == RANDOM:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(settings.seed)
            vit = empty_encoder(architecture, image_size)
        with torch.no_grad():
            vit.pos_embed.copy_(sine_cosine_positions(image_size // PATCH, architecture.width))
        return vit
    tensors = load_tensors(
        Path(settings.weights), setting="encoders.sam.weights", where_to_get_it=WHERE_TO_GET_SAM
    )
    tensors = _image_encoder_part(tensors)
    _check_architecture(tensors, settings, architecture)
    # Meta tensors: the random initialisation of ViT-H would take longer than reading its weights.
    with torch.device("meta"):
        vit = empty_encoder(architecture, image_size)
    _interpolate_positions(tensors, image_size // PATCH, architecture.global_blocks)
    try:
        vit.load_state_dict(tensors, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"{settings.weights} does not fit encoders.sam.arch = {settings.arch}: {error}"
        ) from error
    return vit.float()


def empty_encoder(architecture: SamArchitecture, image_size: int) -> ImageEncoderViT:
    return ImageEncoderViT(
        img_size=image_size,
        patch_size=PATCH,
        embed_dim=architecture.width,
        depth=architecture.depth,
        num_heads=architecture.heads,
        mlp_ratio=4,
        out_chans=256,
        qkv_bias=True,
        norm_layer=partial(nn.LayerNorm, eps=1e-6),
        use_rel_pos=True,
        window_size=architecture.window,
        global_attn_indexes=architecture.global_blocks,
    )


def _image_encoder_part(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The image encoder's tensors of a whole SAM; those of an image encoder alone, unchanged."""
    prefix = "image_encoder."
    part = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    return part or tensors


def _check_architecture(
    tensors: dict[str, Tensor], settings: SamSettings, architecture: SamArchitecture
) -> None:
    patch = tensors.get("patch_embed.proj.weight")
    positions = tensors.get("pos_embed")
    if patch is None or positions is None:
        some = ", ".join(sorted(tensors)[:3])
        raise CheckpointError(
            f"{settings.weights} holds no SAM image encoder (its first tensors are {some}); "
            f"encoders.sam.weights must be one of {WHERE_TO_GET_SAM}"
        )
    width = patch.shape[0]
    depth = len({name.split(".")[1] for name in tensors if name.startswith("blocks.")})
    if (width, depth) != (architecture.width, architecture.depth):
        fitting = [
            name for name, other in ARCHITECTURES.items() if (other.width, other.depth) == (width, depth)
        ]
        raise CheckpointError(
            f"{settings.weights} has width {width} and {depth} blocks; encoders.sam.arch = {settings.arch} "
            f"needs {architecture.width} and {architecture.depth}. "
            + (f"Set encoders.sam.arch to {fitting[0]}" if fitting else "No known architecture fits it")
        )


def _interpolate_positions(tensors: dict[str, Tensor], side: int, global_blocks: tuple[int, ...]) -> None:
    """Resize position embeddings to a grid of ``side`` x ``side`` tokens, in place in ``tensors``."""
    positions = tensors["pos_embed"].float()  # [1, H, W, C]
    if positions.shape[1:3] != (side, side):
        resized = F.interpolate(
            positions.permute(0, 3, 1, 2), (side, side), mode="bilinear", align_corners=False
        )
        tensors["pos_embed"] = resized.permute(0, 2, 3, 1)
    for block in global_blocks:
        for axis in ("h", "w"):
            name = f"blocks.{block}.attn.rel_pos_{axis}"
            relative = tensors.get(name)  # [2H - 1, head_dim]
            if relative is not None and relative.shape[0] != 2 * side - 1:
                resized = F.interpolate(relative.float().T[None], 2 * side - 1, mode="linear")
                tensors[name] = resized[0].T


def _provenance(
    settings: SamSettings, image_size: int, channels: int, blocks: tuple[int, int, int]
) -> SamProvenance:
    random = settings.weights == RANDOM
    return SamProvenance(
        library=f"segment-anything {version('segment-anything')}",
        arch=settings.arch,
        weights=RANDOM if random else Path(settings.weights).name,
        sha256=None if random else sha256_of(Path(settings.weights)),
        seed=settings.seed if random else None,
        channels=channels,
        image_size=image_size,
        blocks=blocks,
    )
