"""What the ablations replace MARIS' parts with, against their formulas written out a second time."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import yaml
from pydantic import ValidationError
from torch import Tensor, nn

from maris_fast.config import ModelSettings, TrainingSettings, load_settings
from maris_fast.model import Maris, parameter_counts
from maris_fast.model.ablations.bidirectional import RATES, BidirectionalFusion
from maris_fast.model.ablations.product_guidance import words_into_pixels
from maris_fast.model.ablations.sam_decoder import SamDecoder
from maris_fast.model.ablations.spatial_dynamic import SpatialDynamicFusion
from maris_fast.model.ablations.transformer import TransformerFusion
from maris_fast.model.ablations.vit_det import VitDetPyramid
from maris_fast.model.flops import training_flops
from maris_fast.model.mask_decoder import DecoderBlock
from maris_fast.model.positions import sine_positions
from tests.model.by_hand import (
    ABLATED,
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

L_V = math.prod(GRID)
CONFIGS = Path(__file__).parents[2] / "train" / "configs"
FRAGMENTS = sorted((CONFIGS / "ablations").glob("*.yaml"))
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "without_fe": {"enhancement": "last"},
    "without_ma": {"ma_blocks": 0},
    "without_de": {"decoder": "sam"},
    "te": {"fusion": "transformer"},
    "sdf": {"fusion": "spatial_dynamic"},
    "bcm": {"fusion": "bidirectional"},
    "without_mask": {"keep": "all"},
    "with_toi": {"token_to_image": True},
    "pooled": {"decoder_self_attention": "pooled"},
    "without_elp": {"linguistic_guidance": "product"},
    "vit_det": {"enhancement": "vit_det"},
    "sam": {"enhancement": "last", "ma_blocks": 0, "decoder": "sam"},
    "norms": {
        "token_to_image": True,
        "decoder_norm": "pre",
        "decoder_feed_forward": 2,
        "decoder_positions": "sine",
        "fusion": "transformer",
    },
    "no_target": {"no_target": True},
    "no_target_of_sam": {
        "no_target": True,
        "decoder": "sam",
        "input_norm": "layer",
        "enhancement": "vit_det",
    },
}
every_variant = pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def settings(**changes: object) -> ModelSettings:
    return ModelSettings.model_validate({"channels": C, "heads": HEADS, **changes})


def unscaled(z_v: Tensor, z_l: Tensor, word_mask: Tensor) -> Tensor:
    """softmax over an expression's real words of Z_v Z_lᵀ, times Z_l, one expression at a time."""
    return torch.stack(
        [
            torch.softmax(v @ words[real].T, dim=1) @ words[real]
            for v, words, real in zip(z_v, z_l, word_mask, strict=True)
        ]
    )


def fused(block: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """f_v, f_l and the mask of three expressions about two images, and what a fusion computes from them."""
    vary_norms(block)
    f_v = torch.randn(2, L_V, C, dtype=torch.float64)
    _, f_l, word_mask, offsets = inputs(2, 1)
    f_lav, f_val = block.double()(f_v, f_l, word_mask, torch.tensor(0.5), offsets, GRID)
    return f_v[[0, 0, 1]], f_l, word_mask, f_lav, f_val


@every_variant
def test_every_parameter_has_a_finite_gradient_and_moves_something(changes: dict[str, Any]) -> None:
    model = make(**changes).train()
    said = model(*inputs(2, 3))
    assert said.logits.shape == (5, 4 * GRID[0], 4 * GRID[1])
    assert (said.no_target is not None) == settings(**changes).no_target
    assert said.no_target is None or said.no_target.shape == (5,)
    sum(output.square().mean() for output in said if output is not None).backward()
    # A single token attends to itself, or is attended to, whatever its query and key are.
    idle = (
        ("self_c.query", "self_c.key", "cross.query", "cross.key") if "linguistic_guidance" in changes else ()
    )
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A bias that all keys share changes no softmax.
        if not name.endswith("key.bias") and not any(part in name for part in idle):
            assert parameter.grad.any(), name


@every_variant
def test_expressions_do_not_see_each_other(changes: dict[str, Any]) -> None:
    model = make(**changes)
    features, words, word_mask, offsets = inputs(3, 1, 2)
    together = model(features, words, word_mask, offsets)
    for e, image in enumerate((0, 0, 0, 1, 2, 2)):
        alone = model(
            [level[image : image + 1] for level in features],
            words[e : e + 1],
            word_mask[e : e + 1],
            torch.tensor([0, 1], dtype=torch.int32),
        )
        torch.testing.assert_close(alone.logits[0], together.logits[e])
        if together.no_target is not None:
            torch.testing.assert_close(alone.no_target[0], together.no_target[e])


@every_variant
def test_padded_words_change_nothing(changes: dict[str, Any]) -> None:
    model = make(**changes)
    features, words, word_mask, offsets = inputs(2, 2)
    noise = torch.where(word_mask[..., None], words, 1e3 * torch.randn_like(words))
    kept, disturbed = (model(features, given, word_mask, offsets).answer() for given in (words, noise))
    torch.testing.assert_close(disturbed, kept)
    other = torch.where(word_mask[..., None], torch.randn_like(words), words)
    assert not torch.allclose(model(features, other, word_mask, offsets).logits, kept)


@every_variant
def test_fast_attention_gives_what_the_reference_gives(changes: dict[str, Any]) -> None:
    """In fp32: outputs relative to their largest value, gradients relative to the largest of all gradients.

    Measured on these inputs: 9e-7 and 1.1e-6 at most.
    """
    data = inputs(2, 3)
    outputs: dict[str, list[Tensor]] = {}
    gradients: dict[str, list[Tensor]] = {}
    for impl in ("reference", "sdpa"):
        torch.manual_seed(1)
        model = make(**changes, attention_impl=impl).float()
        features, words, word_mask, offsets = data
        said = model([level.float() for level in features], words.float(), word_mask, offsets)
        outputs[impl] = [output for output in said if output is not None]
        sum(output.square().mean() for output in outputs[impl]).backward()
        gradients[impl] = [parameter.grad for parameter in model.parameters()]
    for fast, slow in zip(outputs["sdpa"], outputs["reference"], strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=5e-6 * slow.abs().max().item())
    largest = max(slow.abs().max().item() for slow in gradients["reference"])
    for fast, slow in zip(gradients["sdpa"], gradients["reference"], strict=True):
        torch.testing.assert_close(fast, slow, rtol=0, atol=5e-6 * largest)


@every_variant
def test_a_step_in_bf16_follows_fp32_with_gradients_in_fp32(changes: dict[str, Any]) -> None:
    model = make(**changes, attention_impl="sdpa").float().train()
    features, words, word_mask, offsets = inputs(2, 3)
    exact = model([level.float() for level in features], words.float(), word_mask, offsets).logits
    with torch.autocast("cpu", torch.bfloat16):
        said = model([level.bfloat16() for level in features], words.bfloat16(), word_mask, offsets)
    sum(output.float().square().mean() for output in said if output is not None).backward()
    # Measured: 0.036 with eq. 4's gate, where a rounded S may cross the threshold; 0.016 without.
    assert (said.logits.float() - exact).norm() < 0.1 * exact.norm()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.dtype == torch.float32


@pytest.mark.parametrize("grid", [(1, 1), (1, 6), (7, 2), (8, 8)], ids=str)
@every_variant
def test_grids_of_any_shape_have_masks(changes: dict[str, Any], grid: tuple[int, int]) -> None:
    features = [torch.randn(1, *grid, C_V, dtype=torch.float64) for _ in range(3)]
    _, words, word_mask, offsets = inputs(2)
    logits = make(**changes)(features, words, word_mask, offsets).logits
    assert logits.shape == (2, 4 * grid[0], 4 * grid[1])
    assert logits.isfinite().all()


def test_without_fe_the_last_map_goes_through_one_linear_layer() -> None:
    enhancement = make(enhancement="last").feature_enhancement
    features = inputs(1, 1)[0]
    wanted = features[2] @ enhancement.linear.weight.T + enhancement.linear.bias
    torch.testing.assert_close(enhancement(features), wanted)


def test_vit_det_is_four_scales_of_the_last_map_joined() -> None:
    pyramid = VitDetPyramid(C_V, C, "none").double().eval()
    features = inputs(1, 1)[0]
    last = features[2].permute(0, 3, 1, 2)

    def up(layer: nn.Module, x: Tensor) -> Tensor:
        """A 2×2 transposed convolution of stride 2: each pixel becomes four."""
        fine = torch.einsum("nchw,cdij->ndhiwj", x, layer.weight)
        return fine.reshape(len(x), -1, 2 * x.shape[2], 2 * x.shape[3]) + layer.bias[:, None, None]

    def norm(layer: nn.Module, x: Tensor) -> Tensor:
        spread = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + layer.eps).sqrt()
        return spread * layer.weight[:, None, None] + layer.bias[:, None, None]

    def lateral(layers: nn.Module, x: Tensor) -> Tensor:
        x = norm(layers[1], torch.einsum("nchw,dc->ndhw", x, layers[0].weight[:, :, 0, 0]))
        return norm(layers[3], F.conv2d(x, layers[2].weight, padding=1))

    def pooled(x: Tensor, by: int) -> Tensor:
        return x.unflatten(3, (-1, by)).unflatten(2, (-1, by)).mean(dim=(3, 5))

    four = pyramid.scale_4
    quadruple = up(four[3], F.gelu(norm(four[1], up(four[0], last))))
    half = torch.full((2, C_V, 3, 2), -math.inf, dtype=torch.float64)
    for y in range(GRID[0]):
        for x in range(GRID[1]):
            half[:, :, y // 2, x // 2] = torch.maximum(half[:, :, y // 2, x // 2], last[:, :, y, x])
    levels = [
        pooled(lateral(four[4], quadruple), 4),
        pooled(lateral(pyramid.scale_2[1], up(pyramid.scale_2[0], last)), 2),
        lateral(pyramid.scale_1, last),
        F.interpolate(lateral(pyramid.scale_half[1], half), GRID, mode="bilinear"),
    ]
    wanted = cba(pyramid.cba, torch.cat(levels, dim=1).permute(0, 2, 3, 1))
    torch.testing.assert_close(pyramid(features), wanted)


def test_te_is_one_sequence_of_pixels_and_words_split_again() -> None:
    layer = TransformerFusion(settings(fusion="transformer"), C_T)
    f_v, f_l, word_mask, f_lav, f_val = fused(layer)
    z_v = f_v @ layer.project_v.weight.T + layer.project_v.bias
    z_l = f_l @ layer.project_l.weight.T + layer.project_l.bias
    for e in range(3):
        real = word_mask[e]
        x = torch.cat([z_v[e], z_l[e, real]])[None]
        x = layer_norm(layer.norm_attention, x + attention(layer.attention, x, x, x))
        x = layer_norm(layer.norm_feed_forward, x + mlp(layer.feed_forward, x))[0]
        torch.testing.assert_close(f_lav[e], x[:L_V])
        torch.testing.assert_close(f_val[e, real], x[L_V:])


def test_sdf_is_vision_guided_attention_alone() -> None:
    block = SpatialDynamicFusion(settings(fusion="spatial_dynamic"), C_T)
    f_v, f_l, word_mask, f_lav, f_val = fused(block)
    z_v, z_l = f_v @ block.W_v.weight.T, f_l @ block.W_l.weight.T
    torch.testing.assert_close(f_lav, layer_norm(block.norm_v, unscaled(z_v, z_l, word_mask) + z_v))
    torch.testing.assert_close(f_val, z_l)


def test_sdf_is_the_visual_half_of_mutual_attention_without_its_gate() -> None:
    block = SpatialDynamicFusion(settings(fusion="spatial_dynamic"), C_T).double()
    mutual = make(keep="all").ma_blocks[0]
    *data, _, _ = fused(block)
    mutual.load_state_dict(block.state_dict(), strict=False)
    of_each = (*data, torch.tensor(0.5), None, GRID)
    torch.testing.assert_close(block(*of_each)[0], mutual(*of_each)[0])


def test_bcm_is_words_for_pixels_then_pixels_for_pixels_then_context() -> None:
    block = BidirectionalFusion(settings(fusion="bidirectional"), C_T)
    f_v, f_l, word_mask, f_lav, f_val = fused(block)

    def linear(layer: nn.Linear, x: Tensor) -> Tensor:
        return x @ layer.weight.T + (layer.bias if layer.bias is not None else 0)

    v_1, v_2, v_3, v_4 = (
        linear(layer, f_v).clamp(min=0) for layer in (block.V_1, block.V_2, block.V_3, block.V_4)
    )
    z_l = linear(block.W_l, f_l)
    k = unscaled(v_1, z_l, word_mask)
    a = torch.tanh(linear(block.W_q, k) + linear(block.W_v, v_2))
    places = sine_positions(*GRID, C, device=a.device, dtype=a.dtype).reshape(L_V, C)
    rel = torch.softmax(places @ linear(block.W_a, a).transpose(1, 2) / math.sqrt(C), dim=2)
    both = linear(block.join, torch.cat([rel @ v_3, k], dim=2)).clamp(min=0) + v_4
    on_grid = both.reshape(3, *GRID, C).permute(0, 3, 1, 2)
    context = [
        F.conv2d(on_grid, layer.weight, layer.bias, padding=rate, dilation=rate).flatten(2).transpose(1, 2)
        for layer, rate in zip(block.context, RATES, strict=True)
    ]
    torch.testing.assert_close(f_lav, linear(block.out, torch.cat([both, *context], dim=2)).clamp(min=0))
    torch.testing.assert_close(f_val, z_l)


@pytest.mark.parametrize("impl", ["auto", "sdpa", "sdpa-flash", "reference"])
@pytest.mark.parametrize("grid", [GRID, (4, 6), (2, 7), (1, 1)], ids=str)
def test_pooled_self_attention_is_equation_6_on_means_of_two_by_two_tokens(
    grid: tuple[int, int], impl: str
) -> None:
    block = DecoderBlock(settings(decoder_self_attention="pooled", attention_impl=impl)).double()
    h, w = grid
    f_lav = torch.randn(2, h * w, C, dtype=torch.float64)
    f_c = torch.randn(2, 1 + WORDS, C, dtype=torch.float64)
    mask = torch.ones(2, 1 + WORDS, dtype=torch.bool)
    place = torch.randn(h * w, C, dtype=torch.float64)

    def cells(tokens: Tensor) -> Tensor:
        on_grid = tokens.unflatten(1, grid)
        corners = [(top, left) for top in range(0, h, 2) for left in range(0, w, 2)]
        cells = [on_grid[:, top : top + 2, left : left + 2].flatten(1, 2) for top, left in corners]
        return torch.stack([cell.sum(1) / cell.shape[1] for cell in cells], dim=1)

    hat_lav = attention(block.self_lav, f_lav + place, cells(f_lav + place), cells(f_lav)) + f_lav
    hat_c = attention(block.self_c, f_c, f_c, f_c, mask) + f_c
    bar_lav = attention(block.cross, hat_lav + place, hat_c, hat_c, mask) + hat_lav
    torch.testing.assert_close(block(f_lav, f_c, mask, place, grid)[0], bar_lav)


def test_toi_a_lets_tokens_look_at_the_image_before_equation_8() -> None:
    block = DecoderBlock(settings(token_to_image=True)).double()
    f_lav = torch.randn(2, L_V, C, dtype=torch.float64)
    f_c = torch.randn(2, 1 + WORDS, C, dtype=torch.float64)
    mask = torch.tensor([[True, True, True, False, False], [True] * 5])
    place = torch.randn(L_V, C, dtype=torch.float64)
    hat_lav = attention(block.self_lav, f_lav + place, f_lav + place, f_lav) + f_lav
    hat_c = attention(block.self_c, f_c, f_c, f_c, mask) + f_c
    hat_c = attention(block.tokens_look, hat_c, hat_lav + place, hat_lav) + hat_c
    bar_lav = attention(block.cross, hat_lav + place, hat_c, hat_c, mask) + hat_lav
    evolved, tokens = block(f_lav, f_c, mask, place, GRID)
    torch.testing.assert_close(evolved, bar_lav)
    torch.testing.assert_close(tokens, hat_c)


def test_without_elp_pixels_are_multiplied_by_the_mean_word_and_the_query_is_the_only_token() -> None:
    model = make(linguistic_guidance="product")
    features, words, word_mask, offsets = inputs(2, 1)
    f_v = model.feature_enhancement(features).flatten(1, 2)
    f_lav, f_val = model.mutual_aware(f_v, words, word_mask, offsets, GRID)
    product = torch.stack([f_lav[e] * f_val[e, word_mask[e]].mean(0) for e in range(3)])
    torch.testing.assert_close(words_into_pixels(f_lav, f_val, word_mask)[0], product)
    query = model.mask_decoder.query.expand(3, -1, -1)
    alone = torch.ones(3, 1, dtype=torch.bool)
    for block in model.mask_decoder.blocks:
        product, query = block(product, query, alone, 0.0, GRID)
    fine = model.mask_decoder.upsampling(product.transpose(1, 2).unflatten(2, GRID))
    fine = F.interpolate(fine, scale_factor=2, mode="bilinear")
    wanted = torch.einsum("ec,echw->ehw", mlp(model.mask_decoder.query_mlp, query[:, 0]), fine)
    torch.testing.assert_close(model(features, words, word_mask, offsets).logits, wanted)


def test_sam_s_decoder_is_two_way_blocks_and_a_hypernetwork() -> None:
    decoder = SamDecoder(settings(decoder="sam")).double()
    vary_norms(decoder)
    _, _, word_mask, _ = inputs(2)
    f_lav = torch.randn(2, L_V, C, dtype=torch.float64)
    f_val = torch.randn(2, WORDS, C, dtype=torch.float64)
    logits, token = decoder(f_lav, f_val, word_mask, GRID)

    mask = torch.cat([torch.ones(2, 5, dtype=torch.bool), word_mask], dim=1)
    place = (
        sine_positions(*GRID, C, device=f_lav.device, dtype=f_lav.dtype).reshape(1, L_V, C).expand(2, -1, -1)
    )
    prompt = torch.cat([decoder.output_tokens.expand(2, -1, -1), f_val], dim=1)
    image, tokens = f_lav, prompt
    for index, block in enumerate(decoder.blocks):
        if index == 0:
            x = attention(block.self_attention, tokens, tokens, tokens, mask)
        else:
            x = tokens + prompt
            x = tokens + attention(block.self_attention, x, x, tokens, mask)
        tokens = layer_norm(block.norm_self, x)
        seen = attention(block.token_to_image, tokens + prompt, image + place, image)
        tokens = layer_norm(block.norm_token_to_image, tokens + seen)
        fed = block.feed_forward[2](block.feed_forward[0](tokens).clamp(min=0))
        tokens = layer_norm(block.norm_feed_forward, tokens + fed)
        read = attention(block.image_to_token, image + place, tokens + prompt, tokens, mask)
        image = layer_norm(block.norm_image_to_token, image + read)
    seen = attention(decoder.last_token_to_image, tokens + prompt, image + place, image)
    tokens = layer_norm(decoder.norm_last, tokens + seen)
    torch.testing.assert_close(token, tokens[:, 1])
    up = decoder.upsampling
    fine = up[0](image.transpose(1, 2).unflatten(2, GRID))
    fine = F.gelu(layer_norm(up[1], fine.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
    fine = F.gelu(up[3](fine))
    assert fine.shape == (2, C // 8, 4 * GRID[0], 4 * GRID[1])
    net = decoder.hypernetwork
    weights = net[4](net[2](net[0](tokens[:, 1]).clamp(min=0)).clamp(min=0))
    torch.testing.assert_close(logits, (weights[:, :, None, None] * fine).sum(1))


def test_sam_s_decoder_at_its_size_has_sam_s_own_shapes() -> None:
    """In the parts built here, each tensor of segment_anything's decoder has a counterpart of its shape."""
    from segment_anything.modeling import MaskDecoder as SamMaskDecoder
    from segment_anything.modeling import TwoWayTransformer

    transformer = TwoWayTransformer(depth=2, embedding_dim=256, mlp_dim=2048, num_heads=8)
    theirs = SamMaskDecoder(transformer_dim=256, transformer=transformer)
    unused = ("iou_prediction_head", *(f"output_hypernetworks_mlps.{mask}" for mask in (1, 2, 3)))
    shapes = [
        tuple(parameter.shape)
        for name, parameter in theirs.named_parameters()
        if not name.startswith((*unused, "iou_token", "mask_tokens"))
    ]
    tokens = (1, theirs.iou_token.weight.shape[0] + theirs.mask_tokens.weight.shape[0], 256)
    ours = [tuple(parameter.shape) for parameter in SamDecoder(ModelSettings(decoder="sam")).parameters()]
    assert sorted(ours, key=str) == sorted([*shapes, tokens], key=str)


@pytest.mark.parametrize("base", ["refcoco.yaml", "quickstart.yaml"])
@pytest.mark.parametrize("fragment", FRAGMENTS, ids=lambda path: path.stem)
def test_each_fragment_lays_a_model_on_any_base(fragment: Path, base: str, tmp_path: Path) -> None:
    both = tmp_path / "both.yaml"
    both.write_text(f"extends: [{CONFIGS / base}, {fragment}]\n")
    plain = load_settings(TrainingSettings, CONFIGS / base)
    laid = load_settings(TrainingSettings, both)
    assert laid.model_copy(update={"model": plain.model}) == plain
    comment, section, *values = fragment.read_text().splitlines()
    assert (comment[:2], section) == ("# ", "model:")
    assert all(value.startswith("  ") for value in values)
    # A row differs from 'ours' only in what its name says.
    ours = tmp_path / "ours.yaml"
    ours.write_text(f"extends: [{CONFIGS / base}, {CONFIGS / 'ablations' / 'ours.yaml'}]\n")
    row = VARIANTS.get(fragment.stem, ROWS_OF_NUMBERS.get(fragment.stem))
    own = {name: laid.model.model_dump()[name] for name in row}
    assert own == row
    wanted = load_settings(TrainingSettings, ours).model.model_dump() | row
    if laid.model.decoder == "sam":
        wanted |= {"decoder_norm": "none", "decoder_positions": "none", "decoder_feed_forward": 0.0}
        wanted |= {"decoder_self_attention": "full"}
    if laid.model.fusion != "mutual" or not laid.model.ma_blocks:
        for name in ("keep", "language_norm", "empty_rows", "score_scale", "visual_center"):
            wanted[name] = getattr(laid.model, name)  # has no effect there
    assert laid.model.model_dump() == wanted


ROWS_OF_NUMBERS: dict[str, dict[str, Any]] = {
    "blocks_1": {"ma_blocks": 1},
    "blocks_3": {"ma_blocks": 3},
    "tau_01": {"tau": 0.1},
    "tau_03": {"tau": 0.3},
    "tau_07": {"tau": 0.7},
    "sums": {"language_norm": "none", "score_scale": "none", "visual_center": "none"},
    "as_printed": {
        "keep": "irrelevant",
        "language_norm": "none",
        "score_scale": "none",
        "visual_center": "none",
    },
}


def test_there_is_a_fragment_for_every_row() -> None:
    rows = {"ours", "without_fe", "without_ma", "without_de", "te", "sdf", "bcm", "without_mask", "with_toi"}
    rows |= {"without_elp", "vit_det", "sam", "pooled", *ROWS_OF_NUMBERS}
    assert {path.stem for path in FRAGMENTS} == rows


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"fusion": "transformer", "ma_blocks": 0}, "set ma_blocks to 1 or more, or leave fusion at mutual"),
        ({"decoder": "sam", "token_to_image": True}, "set token_to_image to false, or decoder to maris"),
        ({"decoder": "sam", "decoder_self_attention": "pooled"}, "set decoder_self_attention to full"),
        ({"decoder": "sam", "linguistic_guidance": "product"}, "set linguistic_guidance to explicit"),
        ({"decoder": "sam", "decoder_norm": "pre"}, "set decoder_norm to none"),
        ({"decoder": "sam", "decoder_positions": "sine"}, "set decoder_positions to none"),
        ({"decoder": "sam", "decoder_feed_forward": 2}, "set decoder_feed_forward to 0.0"),
        ({"decoder": "sam", "channels": 12, "heads": 2}, "must be a multiple of 8"),
        ({"decoder": "sam", "channels": 40, "heads": 8}, "half of it one of heads = 8"),
        ({"fusion": "bilinear"}, "fusion"),
    ],
    ids=str,
)
def test_parts_that_make_no_model_are_refused_with_the_setting_to_change(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError, match=said):
        ModelSettings.model_validate(changes)


@every_variant
@pytest.mark.parametrize("widths", [(1280, 768), (C_V, C_T)], ids=str)
def test_parameters_counted_by_part_add_up_to_the_model_s(
    changes: dict[str, Any], widths: tuple[int, int]
) -> None:
    counts = parameter_counts(settings(**changes), *widths)
    model = Maris(settings(**changes), *widths)
    assert counts.total == sum(parameter.numel() for parameter in model.parameters())
    enhancement = sum(parameter.numel() for parameter in model.feature_enhancement.parameters())
    decoder = sum(parameter.numel() for parameter in model.mask_decoder.parameters())
    assert (counts.enhancement, counts.decoder) == (enhancement, decoder)
    assert (counts.no_target > 0) == ("no_target" in changes)


def test_the_sam_baseline_has_the_parameters_of_two_linear_layers_and_a_decoder() -> None:
    counts = parameter_counts(ModelSettings(enhancement="last", ma_blocks=0, decoder="sam"))
    assert (counts.enhancement, counts.fusion) == (1280 * 256 + 256, 768 * 256)


def test_the_document_s_table_is_what_is_counted() -> None:
    document = (CONFIGS.parents[1] / "docs" / "ablations.md").read_text()
    section = document.partition("## What they weigh")[2].partition("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| ")][1:]
    assert len(rows) == 15
    for name, *figures in rows:
        path = CONFIGS / "ablations" / f"{name}.yaml"
        model = ModelSettings.model_validate(yaml.safe_load(path.read_text())["model"])
        counts, flops = parameter_counts(model), training_flops(model, 1280, 768, (64, 48), 10)
        counted = (counts.enhancement, counts.fusion, counts.decoder, counts.total)
        giga = (round(flops.image / 1e9), round(flops.expression / 1e9))
        assert figures == [f"{figure:,}" for figure in (*counted, *giga)], name
    no_target = parameter_counts(ModelSettings(no_target=True)).no_target
    assert f"another {no_target:,}." in document


@every_variant
def test_fast_attention_keeps_no_map_of_pixels_by_pixels_for_backward(changes: dict[str, Any]) -> None:
    side = 24
    model = make(**changes, attention_impl="sdpa").float().train()
    features = [torch.randn(1, side, side, C_V) for _ in range(3)]
    _, words, word_mask, offsets = inputs(1)
    largest = 0

    def note(saved: Tensor) -> Tensor:
        nonlocal largest
        largest = max(largest, saved.numel())
        return saved

    f_v = model.feature_enhancement(features)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda saved: saved):
        f_lav, f_val = model.mutual_aware(f_v.flatten(1, 2), words.float(), word_mask, offsets, (side, side))
        model.mask_decoder(f_lav, f_val, word_mask, (side, side))
    assert side**2 * C <= largest < side**4


def test_settings_written_before_the_ablations_are_still_those_of_maris() -> None:
    before = {name: value for name, value in settings(tau=0.3).model_dump().items() if name not in ABLATED}
    assert ModelSettings.model_validate(before) == settings(tau=0.3)
