"""SAM's features are segment-anything's own, cropped; weights load only as data, and only if they fit."""

from __future__ import annotations

import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from maris_fast.config import SamSettings
from maris_fast.encoders import SamEncoder
from maris_fast.encoders.sam import ARCHITECTURES, empty_encoder
from maris_fast.errors import CheckpointError, ConfigError


def tiny(**changes: object) -> SamSettings:
    return SamSettings.model_validate({"arch": "vit_tiny", "weights": "random", **changes})


def picture(height: int, width: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture(scope="module")
def encoder() -> SamEncoder:
    return SamEncoder(tiny())


@pytest.mark.parametrize(
    ("settings", "blocks"),
    [
        (tiny(), (3, 5, 7)),
        (SamSettings(arch="vit_b", weights="random", image_size=128), (5, 8, 11)),
    ],
)
def test_levels_are_what_hooks_see_in_segment_anythings_own_forward(
    settings: SamSettings, blocks: tuple[int, int, int]
) -> None:
    encoder = SamEncoder(settings)
    image = picture(96, 128)
    seen = {}
    handles = [
        encoder.vit.blocks[block].register_forward_hook(
            lambda module, given, output, block=block: seen.update({block: output})
        )
        for block in blocks
    ]
    encoder.vit(encoder.preprocess(image)[None])
    for handle in handles:
        handle.remove()
    (features,) = encoder.encode([image])
    h, w = encoder.grid(96, 128).grid
    assert encoder.provenance.blocks == blocks
    for block, level in zip(blocks, features, strict=True):
        assert level.shape == (h, w, encoder.channels)
        assert torch.equal(level, seen[block][0, :h, :w])


@pytest.mark.parametrize("name", ["vit_b", "vit_l", "vit_h"])
def test_an_encoder_of_sam_is_built_as_segment_anything_builds_it(name: str) -> None:
    from segment_anything import sam_model_registry

    with torch.device("meta"):
        ours = empty_encoder(ARCHITECTURES[name], ARCHITECTURES[name].image_size)
        theirs = sam_model_registry[name]().image_encoder
    assert repr(ours) == repr(theirs)
    for one, other in zip(ours.blocks, theirs.blocks, strict=True):
        assert one.window_size == other.window_size
        assert (one.attn.num_heads, one.attn.use_rel_pos) == (other.attn.num_heads, other.attn.use_rel_pos)
    shapes, expected = (
        {key: value.shape for key, value in one.state_dict().items()} for one in (ours, theirs)
    )
    assert shapes == expected


def test_an_image_is_prepared_as_sam_does_it(encoder: SamEncoder) -> None:
    from segment_anything.modeling import Sam
    from segment_anything.utils.transforms import ResizeLongestSide

    image = picture(100, 77)
    sam = Sam(encoder.vit, torch.nn.Module(), torch.nn.Module())
    resized = ResizeLongestSide(256).apply_image(np.asarray(image))
    expected = sam.preprocess(torch.as_tensor(resized).permute(2, 0, 1).float())
    torch.testing.assert_close(encoder.preprocess(image), expected, rtol=0, atol=1e-6)


def test_a_batch_of_different_sizes_gives_each_image_its_own_features(encoder: SamEncoder) -> None:
    images = [picture(60, 90, 1), picture(90, 60, 2), picture(33, 100, 3)]
    together = encoder.encode(images)
    for image, features in zip(images, together, strict=True):
        (alone,) = encoder.encode([image])
        for one, other in zip(features, alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_grey_and_transparent_images_are_read_as_rgb(encoder: SamEncoder) -> None:
    colours, grey = picture(32, 32), picture(32, 32).convert("L")
    transparent = colours.copy()
    transparent.putalpha(grey)
    rgb_of_grey = Image.merge("RGB", [grey] * 3)
    for image, rgb in ((grey, rgb_of_grey), (transparent, colours)):
        (features,), (expected,) = encoder.encode([image]), encoder.encode([rgb])
        assert features[0].shape == (16, 16, encoder.channels)
        for one, other in zip(features, expected, strict=True):
            assert torch.equal(one, other)
    assert not torch.equal(encoder.preprocess(grey), encoder.preprocess(colours))


def test_random_weights_follow_their_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = (SamEncoder(tiny(seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    weight = "patch_embed.proj.weight"
    assert torch.equal(first.vit.state_dict()[weight], again.vit.state_dict()[weight])
    assert not torch.equal(first.vit.state_dict()[weight], other.vit.state_dict()[weight])
    assert first.provenance.random
    assert first.provenance.seed == 1


def test_a_random_encoder_knows_where_things_are(encoder: SamEncoder) -> None:
    plain = Image.new("RGB", (256, 256), (200, 40, 40))
    (features,) = encoder.encode([plain])
    left, right = features[2][8, 2], features[2][8, 13]
    assert torch.nn.functional.cosine_similarity(left, right, dim=0) < 0.9


def saved_sam(folder: Path, name: str = "sam.pth") -> tuple[Path, SamEncoder]:
    source = SamEncoder(tiny(seed=3))
    torch.manual_seed(0)
    for key, value in source.vit.named_parameters():
        if "rel_pos" in key:
            torch.nn.init.normal_(value, std=0.1)  # a new encoder's are all 0
    tensors = {f"image_encoder.{key}": value for key, value in source.vit.state_dict().items()}
    tensors["mask_decoder.iou_token.weight"] = torch.zeros(1, 4)
    path = folder / name
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path, source


@pytest.mark.parametrize("name", ["sam.pth", "sam.safetensors"])
def test_a_checkpoint_gives_the_features_of_the_model_it_was_saved_from(tmp_path: Path, name: str) -> None:
    path, source = saved_sam(tmp_path, name)
    loaded = SamEncoder(tiny(weights=str(path)))
    image = picture(64, 80)
    for one, other in zip(loaded.encode([image])[0], source.encode([image])[0], strict=True):
        assert torch.equal(one, other)
    assert not loaded.provenance.random
    assert loaded.provenance.weights == name
    assert len(loaded.provenance.sha256 or "") == 64


def test_another_image_size_interpolates_the_checkpoints_positions(tmp_path: Path) -> None:
    path, source = saved_sam(tmp_path)
    smaller = SamEncoder(tiny(weights=str(path), image_size=128))
    assert smaller.vit.pos_embed.shape == (1, 8, 8, source.channels)
    whole = source.vit.pos_embed
    # Halving a grid bilinearly takes the mean of the two middle tokens of each axis.
    expected = whole[0, 0:2, 0:2].mean(dim=(0, 1))
    torch.testing.assert_close(smaller.vit.pos_embed[0, 0, 0], expected)
    whole_tables, tables = (dict(one.vit.named_parameters()) for one in (source, smaller))
    for block, axis in itertools.product(range(8), "hw"):
        name = f"blocks.{block}.attn.rel_pos_{axis}"
        table = whole_tables[name]
        if block in (1, 3, 5, 7):  # 31 places linearly to 15; windows keep theirs
            places = (np.arange(15) + 0.5) * 31 / 15 - 0.5
            channels = [np.interp(places, np.arange(31), channel) for channel in table.T.numpy()]
            table = torch.from_numpy(np.stack(channels, axis=1)).float()
        torch.testing.assert_close(tables[name], table)
    (features,) = smaller.encode([picture(64, 128)])
    assert features[0].shape == (4, 8, source.channels)


def test_a_missing_checkpoint_says_where_to_get_it_and_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"sam_vit_h_4b8939\.pth.*encoders\.sam\.weights"):
        SamEncoder(tiny(weights=str(tmp_path / "none.pth")))


class Bomb:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (Path.touch, (Path(self.target),))  # type: ignore[return-value]

    def __init__(self, target: str) -> None:
        self.target = target


def test_a_checkpoint_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "touched"
    path = tmp_path / "bomb.pth"
    torch.save({"image_encoder.pos_embed": Bomb(str(victim))}, path)
    with pytest.raises(CheckpointError, match="weights load as data only"):
        SamEncoder(tiny(weights=str(path)))
    path.write_bytes(pickle.dumps(Bomb(str(victim))))
    with pytest.raises(CheckpointError):
        SamEncoder(tiny(weights=str(path)))
    assert not victim.exists()


def test_a_checkpoint_of_another_architecture_says_what_was_found_and_needed(tmp_path: Path) -> None:
    path, _ = saved_sam(tmp_path)
    with pytest.raises(CheckpointError, match=r"width 128 and 8 blocks.*768 and 12.*vit_tiny"):
        SamEncoder(SamSettings(arch="vit_b", weights=str(path)))


@pytest.mark.parametrize("content", [{"head.weight": torch.zeros(2)}, [1, 2], {}])
def test_a_file_that_is_not_a_sam_is_refused(tmp_path: Path, content: object) -> None:
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError):
        SamEncoder(tiny(weights=str(path)))


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path, _ = saved_sam(tmp_path)
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match=r"cannot be read|more than tensors"):
        SamEncoder(tiny(weights=str(path)))


def test_an_image_size_must_be_whole_patches() -> None:
    with pytest.raises(ConfigError, match="multiple of 16"):
        SamEncoder(tiny(image_size=250))
