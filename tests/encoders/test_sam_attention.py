"""Attention without its matrix equals segment-anything's; tolerances come from its error against fp64."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from PIL import Image
from segment_anything.modeling.image_encoder import Attention
from torch import nn

from maris_fast.config import SamSettings
from maris_fast.encoders import SamEncoder
from maris_fast.encoders.sam_attention import DecomposedAttention


def attention(H: int, W: int, heads: int, head_dim: int, seed: int = 0) -> Attention:
    """Attention with relative positions that matter; segment-anything initialises them to zero."""
    torch.manual_seed(seed)
    module = Attention(heads * head_dim, heads, use_rel_pos=True, input_size=(H, W)).eval()
    for name in ("rel_pos_h", "rel_pos_w"):
        nn.init.normal_(getattr(module, name), std=0.3)
    return module.requires_grad_(False)


def errors(
    build: Callable[[], nn.Module], fast: Callable[[nn.Module], nn.Module], x: torch.Tensor
) -> list[float]:
    """Errors of segment-anything's forward and of ours in fp32, both against segment-anything's in fp64."""
    exact = build().double()(x.double())
    return [
        ((module(x) - exact).abs().max() / exact.abs().max()).item() for module in (build(), fast(build()))
    ]


@pytest.mark.parametrize(
    ("H", "W", "heads", "head_dim"),
    [
        (14, 14, 16, 80),  # a window of ViT-H
        (32, 32, 4, 80),  # a global block of ViT-H at 512 pixels, a quarter of its heads
        (14, 14, 12, 64),  # a window of ViT-B
        (8, 8, 4, 32),  # a window of vit_tiny; H + W + head_dim is a multiple of 8 already
        (5, 9, 2, 20),  # rows and columns must not be swapped
        (1, 1, 1, 8),
    ],
)
def test_a_block_is_as_exact_as_segment_anythings(H: int, W: int, heads: int, head_dim: int) -> None:
    x = torch.randn(2, H, W, heads * head_dim, generator=torch.Generator().manual_seed(1))
    reference, ours = errors(lambda: attention(H, W, heads, head_dim), DecomposedAttention, x)
    assert ours <= max(3 * reference, 4 * torch.finfo(torch.float32).eps)


def test_positions_of_another_size_are_interpolated_as_segment_anything_does_it() -> None:
    x = torch.randn(1, 6, 6, 32, generator=torch.Generator().manual_seed(1))
    reference, ours = errors(lambda: attention(9, 9, 2, 16), DecomposedAttention, x)
    assert ours <= max(3 * reference, 4 * torch.finfo(torch.float32).eps)


def test_wrong_positions_would_be_noticed() -> None:
    module = attention(5, 9, 2, 20)
    x = torch.randn(1, 5, 9, 40, generator=torch.Generator().manual_seed(1))
    other = copy.deepcopy(module)
    other.rel_pos_w.copy_(module.rel_pos_w.flip(0))
    assert (DecomposedAttention(other)(x) - module(x)).abs().max() > 1e-2


def vit(attention: str, **settings: object) -> nn.Module:
    made = SamEncoder(
        SamSettings.model_validate({"weights": "random", "seed": 5, "attention": attention, **settings})
    )
    generator = torch.Generator().manual_seed(2)
    for name, parameter in sorted(made.vit.named_parameters()):
        if "rel_pos" in name:
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return made.vit


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "image_size"), [("vit_tiny", 256), ("vit_b", 256)])
def test_the_whole_encoder_is_as_exact_as_segment_anythings(arch: str, image_size: int) -> None:
    pixels = torch.randn(1, 3, image_size, image_size, generator=torch.Generator().manual_seed(3))
    reference, fast = (vit(each, arch=arch, image_size=image_size) for each in ("reference", "sdpa"))
    with torch.no_grad():
        outputs = [encoder(pixels) for encoder in (reference, fast)]
        exact = reference.double()(pixels.double())
    own, ours = ((output - exact).abs().max().item() for output in outputs)
    assert own > 0
    assert ours <= 3 * own


def test_bf16_is_as_near_as_segment_anythings_own_bf16() -> None:
    module = attention(16, 16, 4, 32)
    x = torch.randn(1, 16, 16, 128, generator=torch.Generator().manual_seed(1))
    exact = copy.deepcopy(module).double()(x.double())
    with torch.autocast("cpu", torch.bfloat16):
        own, ours = module(x).double(), DecomposedAttention(module)(x).double()
    assert (ours - exact).square().mean() <= 2 * (own - exact).square().mean()


def test_the_names_of_the_weights_stay() -> None:
    reference, fast = (
        SamEncoder(SamSettings(arch="vit_tiny", weights="random", attention=each))
        for each in ("reference", "sdpa")
    )  # type: ignore[arg-type]
    assert list(reference.vit.state_dict()) == list(fast.vit.state_dict())


def test_features_in_the_grid_are_the_uncropped_ones_and_a_quarter_less_on_four_to_three() -> None:
    made = SamEncoder(SamSettings(arch="vit_tiny", weights="random"))
    pixels = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    seen: dict[int, torch.Tensor] = {}
    for block in made.blocks:
        made.vit.blocks[block].register_forward_hook(
            lambda module, given, output, block=block: seen.update({block: output})
        )
    levels = made.encode([image])[0]
    for block, level in zip(made.blocks, levels, strict=True):
        whole = seen[block][0]
        h, w, _ = level.shape
        assert torch.equal(whole[:h, :w], level)
        assert level.numel() / whole.numel() == 0.75
