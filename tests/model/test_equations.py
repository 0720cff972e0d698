"""The model against the paper's equations, written out again independently in a few lines."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maris_fast.config import ModelSettings
from maris_fast.model import Maris
from maris_fast.model.feature_enhancement import FeatureEnhancement
from maris_fast.model.mask_decoder import Upsampling
from maris_fast.model.mutual_aware_attention import MutualAwareAttention
from maris_fast.model.positions import sine_positions
from tests.model.by_hand import (
    C_T,
    C_V,
    GRID,
    HEADS,
    WORDS,
    C,
    attention,
    cba,
    inputs,
    layer_norm,
    make,
    mlp,
    vary_norms,
)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def test_feature_enhancement_is_equations_1_and_2() -> None:
    module = FeatureEnhancement(C_V, C, "none").double().eval()
    for buffer in module.buffers():
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 1.5)
    f1, f2, f3 = inputs(1, 1)[0]
    early = cba(module.cba_early, torch.cat([mlp(module.mlp_v1, f1), mlp(module.mlp_v2, f2)], dim=3))
    wanted = cba(module.cba, torch.cat([mlp(module.mlp_early, early), mlp(module.mlp_v3, f3)], dim=3))
    torch.testing.assert_close(module([f1, f2, f3]), wanted)


def test_mutual_aware_attention_is_equations_3_to_5() -> None:
    settings = ModelSettings(channels=C, heads=HEADS, tau=0.6)
    block = MutualAwareAttention(settings, C, C_T).double()
    vary_norms(block)
    f_v = torch.randn(2, 6, C, dtype=torch.float64)
    _, f_l, word_mask, offsets = inputs(2, 1)
    f_lav, f_val = block(f_v, f_l, word_mask, 0.6, offsets)
    for e, image in enumerate((0, 0, 1)):
        z_v, z_l = f_v[image] @ block.W_v.weight.T, f_l[e] @ block.W_l.weight.T
        A = torch.zeros(6, WORDS, dtype=torch.float64)
        for i in range(6):
            S = z_l @ z_v[i]
            kept = (1 / (1 + torch.exp(-S)) >= 0.6) & word_mask[e]
            A[i, kept] = torch.softmax(S[kept], dim=0)
            torch.testing.assert_close(f_lav[e, i], layer_norm(block.norm_v, A[i] @ z_l + z_v[i]))
        for j in range(WORDS):
            gathered = sum(A[i, j] * z_v[i] for i in range(6))  # 0 for a padded word
            torch.testing.assert_close(f_val[e, j], layer_norm(block.norm_l, gathered + z_l[j]))


def test_centered_pixels_are_z_v_minus_its_mean_over_the_image() -> None:
    settings = ModelSettings(channels=C, heads=HEADS, tau=0.6)
    printed = MutualAwareAttention(settings, C, C_T).double()
    centered = MutualAwareAttention(settings.model_copy(update={"visual_center": "pixels"}), C, C_T).double()
    centered.load_state_dict(printed.state_dict())
    _, f_l, word_mask, offsets = inputs(2, 1)
    f_v = torch.randn(2, 6, C, dtype=torch.float64) + 3
    mean = torch.stack([sum(image) / 6 for image in f_v])  # F_v W_v is linear: centering F_v is the same
    args = (f_l, word_mask, 0.6, offsets)
    for got, wanted in zip(centered(f_v, *args), printed(f_v - mean[:, None], *args), strict=True):
        torch.testing.assert_close(got, wanted)
    torch.testing.assert_close(centered.weights(f_v, *args), printed.weights(f_v - mean[:, None], *args))
    assert not torch.allclose(centered(f_v, *args)[0], printed(f_v, *args)[0])


@pytest.mark.parametrize("feed_forward", [0, 1.5])
@pytest.mark.parametrize("norm", ["none", "pre", "post"])
def test_a_decoder_block_is_equations_6_to_8_with_its_norms_and_feed_forward(
    norm: str, feed_forward: float
) -> None:
    settings = {"decoder_norm": norm, "decoder_feed_forward": feed_forward}
    block = make(**settings).mask_decoder.blocks[0]
    vary_norms(block)
    f_lav = torch.randn(2, 15, C, dtype=torch.float64)
    f_c = torch.randn(2, 1 + WORDS, C, dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    place = torch.randn(15, C, dtype=torch.float64)

    def before(at: nn.Module, x: Tensor) -> Tensor:
        return layer_norm(at.before, x) if norm == "pre" else x

    def after(at: nn.Module, x: Tensor) -> Tensor:
        return layer_norm(at.after, x) if norm == "post" else x

    x = before(block.residual_lav, f_lav)
    hat_lav = after(block.residual_lav, attention(block.self_lav, x + place, x + place, x) + f_lav)
    x = before(block.residual_c, f_c)
    hat_c = after(block.residual_c, attention(block.self_c, x, x, x, mask) + f_c)
    x = before(block.residual_cross, hat_lav)
    bar_lav = after(block.residual_cross, attention(block.cross, x + place, hat_c, hat_c, mask) + hat_lav)
    if feed_forward:
        assert block.feed_forward[0].out_features == 1.5 * C
        x = before(block.residual_feed_forward, bar_lav)
        bar_lav = after(block.residual_feed_forward, mlp(block.feed_forward, x) + bar_lav)
    evolved, tokens = block(f_lav, f_c, mask, place, (3, 5))
    torch.testing.assert_close(evolved, bar_lav)
    torch.testing.assert_close(tokens, hat_c)


@pytest.mark.parametrize("positions", ["none", "sine"])
def test_the_mask_is_the_query_times_the_upsampled_map(positions: str) -> None:
    decoder = make(decoder_blocks=2, decoder_positions=positions).mask_decoder
    _, _, word_mask, _ = inputs(2)
    f_lav = torch.randn(2, 15, C, dtype=torch.float64)
    f_val = torch.randn(2, WORDS, C, dtype=torch.float64)
    logits, token = decoder(f_lav, f_val, word_mask, GRID)
    f_c = torch.cat([decoder.query.expand(2, -1, -1), f_val], dim=1)
    token_mask = torch.cat([torch.ones(2, 1, dtype=torch.bool), word_mask], dim=1)
    place = sines().flatten(0, 1) if positions == "sine" else 0.0
    for block in decoder.blocks:
        f_lav, f_c = block(f_lav, f_c, token_mask, place, GRID)
    fine = cba(decoder.upsampling[0], f_lav.unflatten(1, GRID))
    fine = F.interpolate(fine.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear").permute(0, 2, 3, 1)
    fine = F.interpolate(
        cba(decoder.upsampling[2], fine).permute(0, 3, 1, 2), scale_factor=2, mode="bilinear"
    )
    assert fine.shape == (2, C // 4, 4 * GRID[0], 4 * GRID[1])
    torch.testing.assert_close(token, f_c[:, 0])
    query = mlp(decoder.query_mlp, f_c[:, 0])
    for e in range(2):
        torch.testing.assert_close(logits[e], (query[e][:, None, None] * fine[e]).sum(0))


def test_upsampling_halves_the_width_twice_and_doubles_the_map_once() -> None:
    assert Upsampling(C)(torch.randn(1, C, 5, 3)).shape == (1, C // 4, 10, 6)


@pytest.mark.parametrize("keep", ["relevant", "irrelevant", "all"])
def test_each_gate_gives_finite_masks_and_gradients(keep: str) -> None:
    model = make(keep=keep).train()
    features, words, word_mask, offsets = inputs(2, 3)
    logits = model(features, words, word_mask, offsets).logits
    logits.square().mean().backward()
    assert logits.isfinite().all()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name


def test_the_whole_model_has_the_gradient_of_finite_differences() -> None:
    # keep='all', because the gate is a step without a derivative.
    model = (
        Maris(ModelSettings(channels=8, heads=2, keep="all", attention_impl="reference"), 6, 5)
        .double()
        .eval()
    )
    features = [torch.randn(1, 2, 2, 6, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    words = torch.randn(2, 2, 5, dtype=torch.float64, requires_grad=True)
    word_mask = torch.tensor([[True, True], [True, False]])
    offsets = torch.tensor([0, 2], dtype=torch.int32)
    assert torch.autograd.gradcheck(
        lambda f1, f2, f3, w: model([f1, f2, f3], w, word_mask, offsets).logits, (*features, words)
    )


@pytest.mark.parametrize(
    "changes",
    [
        {"ma_blocks": 0},
        {"ma_blocks": 3},
        {"decoder_blocks": 3},
        {"decoder_norm": "post"},
        {"decoder_positions": "sine"},
        {"decoder_self_attention": "pooled"},
        {"feature_positions": "sine"},
        {"input_norm": "layer"},
        {"decoder_feed_forward": 1.5},
    ],
)
def test_each_switch_changes_the_function(changes: dict[str, object]) -> None:
    data = inputs(1, 2)
    torch.manual_seed(1)
    plain = make()
    torch.manual_seed(1)
    changed = make(**changes)
    for model in (plain, changed):
        # Parameters that both have are equal, so only the switch can make the difference.
        for name, parameter in model.named_parameters():
            generator = torch.Generator().manual_seed(sum(map(ord, name)))
            parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5
    assert changed(*data).logits.shape == (3, 20, 12)
    assert not torch.allclose(plain(*data).logits, changed(*data).logits)


def sines() -> Tensor:
    """``sine_positions`` of the grid."""
    return sine_positions(*GRID, C, device=torch.device("cpu"), dtype=torch.float64)


def test_sine_positions_are_waves_of_the_relative_row_and_column() -> None:
    h, w = GRID
    for y, x in itertools.product(range(h), range(w)):
        waves = []
        for at in ((y + 0.5) / h, (x + 0.5) / w):
            angles = [math.pi * 64 ** (k / (C // 4 - 1)) * at for k in range(C // 4)]
            waves += [*map(math.sin, angles), *map(math.cos, angles)]
        # Angles to 64 π in fp32.
        torch.testing.assert_close(sines()[y, x].tolist(), waves, rtol=0, atol=1e-4)


def test_feature_positions_are_added_to_the_enhanced_map() -> None:
    features = inputs(2, 1)[0]
    model = make(feature_positions="sine")
    f_v, grid = model.visual_tokens(features)
    assert grid == GRID
    torch.testing.assert_close(f_v.unflatten(1, GRID), model.feature_enhancement(features) + sines())


@pytest.mark.parametrize("enhancement", ["maris", "last", "vit_det"])
def test_input_norm_gives_each_token_mean_0_and_variance_1_over_its_channels(enhancement: str) -> None:
    features = [3 * feature + 2 for feature in inputs(2, 1)[0]]
    module = make(enhancement=enhancement, input_norm="layer").feature_enhancement
    plain = make(enhancement=enhancement).feature_enhancement
    plain.load_state_dict(module.state_dict())
    centered = [feature - feature.mean(3, keepdim=True) for feature in features]
    scaled = [one / (one.square().mean(3, keepdim=True) + 1e-5).sqrt() for one in centered]
    torch.testing.assert_close(module(features), plain(scaled))


def test_sine_positions_tell_every_token_from_every_other() -> None:
    positions = sine_positions(64, 48, 64, device=torch.device("cpu"), dtype=torch.float32).flatten(0, 1)
    distance = torch.cdist(positions, positions) + 10 * torch.eye(len(positions))
    assert distance.min() > 0.05


def test_the_paper_s_model_has_about_ten_million_parameters() -> None:
    model = Maris(ModelSettings(), visual_channels=1280, text_channels=768)
    assert 5e6 < sum(parameter.numel() for parameter in model.parameters()) < 15e6
