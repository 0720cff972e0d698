"""``maris-fast export``: files that compute what the model does, also for sizes they were not traced with."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.export import ExportedProgram

from maris_fast import Predictor
from maris_fast.bench.results import ROOT
from maris_fast.config import ModelSettings
from maris_fast.errors import CheckpointError
from maris_fast.exporting import ONNX, PROGRAM, Description, export, export_part, text_encoder_of
from maris_fast.exporting.export import Format
from maris_fast.exporting.parts import POOLED_SIDES, resized_to
from maris_fast.geometry import ImageGeometry, to_original_size
from maris_fast.model import Maris
from maris_fast.weights import load_weights, read_meta, save_weights
from tests.cli.untrained import write_untrained
from tests.command_line import maris_fast, said

IMAGE_SIZE = 256
ONE_BLOCK = {"ma_blocks": 1, "decoder_blocks": 1}
"""Halves the time of an export."""
MODELS: dict[str, dict[str, Any]] = {
    "as shipped": {
        "keep": "all",
        "language_norm": "columns",
        "score_scale": "channels",
        "mutual_attention_impl": "triton",
        "attention_impl": "xformers",
        "cross_attention_impl": "triton",
    },
    "gate": {
        **ONE_BLOCK,
        "keep": "irrelevant",
        "empty_rows": "all",
        "token_to_image": True,
        "decoder_norm": "pre",
        "decoder_positions": "sine",
    },
    "ReSTR's fusion, SAM's decoder": {
        **ONE_BLOCK,
        "enhancement": "last",
        "fusion": "transformer",
        "decoder": "sam",
        "no_target": True,
    },
    "BRINet's fusion": {
        **ONE_BLOCK,
        "fusion": "bidirectional",
        "linguistic_guidance": "product",
        "decoder_norm": "post",
        "decoder_feed_forward": 2.0,
        "feature_positions": "sine",
        "input_norm": "layer",
    },
    "VLT's fusion, pooled keys": {
        **ONE_BLOCK,
        "fusion": "spatial_dynamic",
        "decoder_self_attention": "pooled",
    },
    "no fusion": {**ONE_BLOCK, "ma_blocks": 0},
}
REFERENCE = {
    "mutual_attention_impl": "reference",
    "attention_impl": "reference",
    "cross_attention_impl": "projected",
}
TAU = 0.45
"""The threshold in the file's header, as a schedule left it."""


class Exported(NamedTuple):
    folder: Path
    weights: Path
    reference: Maris
    program: ExportedProgram
    text: str
    """The description stored in the program's file."""


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_untrained(tmp_path_factory.mktemp("weights"))


@pytest.fixture(scope="module", params=MODELS)
def exported(
    request: pytest.FixtureRequest, untrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> Exported:
    folder = tmp_path_factory.mktemp("model")
    settings = ModelSettings(channels=16, heads=2, **MODELS[request.param])
    meta = read_meta(untrained).model_copy(update={"model": settings, "tau": TAU})
    reference = lively(settings.model_copy(update=REFERENCE), meta.visual_channels, meta.text_channels)
    save_weights(folder / "best.safetensors", reference.state_dict(), meta)
    done = maris_fast("export", folder, "--onnx", "--torch", "--license", "mit", "--out", folder / "exported")
    assert done.exit_code == 0, said(done)
    extra = {"maris_fast": ""}
    program = torch.export.load(folder / "exported/head.pt2", extra_files=extra)
    return Exported(folder / "exported", folder / "best.safetensors", reference, program, extra["maris_fast"])


def lively(settings: ModelSettings, visual_channels: int, text_channels: int) -> Maris:
    """A model with logits as large as a trained model's, and with statistics other than the initial ones."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = Maris(settings, visual_channels, text_channels).requires_grad_(False)
        for name, buffer in model.named_buffers():
            if name.endswith(("running_mean", "running_var")):
                buffer.uniform_(0.5, 2)
        decoder: Any = model.mask_decoder
        (decoder.hypernetwork if settings.decoder == "sam" else decoder.query_mlp)[-1].weight *= 100
    model.tau = TAU
    return model.eval()


def cases() -> list[tuple[ImageGeometry, int, int]]:
    """20 image shapes with numbers of expressions and words, among them one pixel, one row and one column."""
    draw = np.random.default_rng(0)
    sizes = [(1, 1), (1, 300), (300, 1), (256, 256), *draw.integers(10, 500, (16, 2)).tolist()]
    return [
        (ImageGeometry.of(*size, IMAGE_SIZE), int(draw.integers(1, 6)) if place else 1, place % 9 + 1)
        for place, size in enumerate(sizes)
    ]


def inputs_of(geometry: ImageGeometry, expressions: int, words: int, model: Maris) -> dict[str, Tensor]:
    draw = torch.Generator().manual_seed(geometry.height)
    lengths = torch.randint(1, words + 1, (expressions, 1), generator=draw)
    return {
        **{
            f"features_{level}": torch.randn(*geometry.grid, model.visual_channels, generator=draw)
            for level in (1, 2, 3)
        },
        "words": torch.randn(expressions, words, model.text_channels, generator=draw),
        "word_mask": torch.arange(words) < lengths,
        "size": torch.tensor([geometry.height, geometry.width]),
    }


@pytest.mark.slow
@torch.no_grad()
def test_files_give_the_reference_models_numbers_for_20_shapes(exported: Exported) -> None:
    model = exported.reference
    program, onnx = exported.program.module(), ONNX.opened(exported.folder / "head.onnx")
    largest = 0.0
    for geometry, expressions, words in cases():
        inputs = inputs_of(geometry, expressions, words, model)
        features = [inputs[f"features_{level}"][None] for level in (1, 2, 3)]
        offsets = torch.tensor([0, expressions], dtype=torch.int32)
        wanted = model(features, inputs["words"], inputs["word_mask"], offsets)
        largest = max(largest, float(wanted.logits.abs().max()))
        resized = to_original_size(wanted.answer(), geometry)
        runs = [onnx(inputs)]
        if model.settings.decoder_self_attention == "full" or min(geometry.grid) >= POOLED_SIDES[0]:
            runs.append(program(**inputs))
        for found in runs:
            torch.testing.assert_close(found["logits"], wanted.logits, rtol=0, atol=1e-4)
            assert found["masks"].shape == (expressions, geometry.height, geometry.width)
            clear = resized.abs() > 1e-4
            assert torch.equal(found["masks"][clear], (resized > 0)[clear])
            if wanted.no_target is None:
                assert set(found) == {"logits", "masks"}
            else:
                torch.testing.assert_close(found["no_target"], wanted.no_target, rtol=0, atol=1e-4)
    assert largest > 1


@pytest.mark.slow
def test_files_say_what_the_weights_do_and_how_images_are_prepared(exported: Exported) -> None:
    import onnx

    model = onnx.load(exported.folder / "head.onnx")
    (entry,) = model.metadata_props
    assert entry.key == "maris_fast"
    assert json.loads(entry.value) == json.loads(exported.text)
    about = Description.model_validate_json(exported.text)
    assert about.weights == read_meta(exported.weights)
    assert (about.license, about.preprocessing.image_size, about.preprocessing.patch) == (
        "mit",
        IMAGE_SIZE,
        16,
    )
    assert about.preprocessing.mean == (123.675, 116.28, 103.53)
    assert about.inputs["words"] == "float32 [expressions, words, 64]"
    shapes = {
        one.name: [side.dim_param or side.dim_value for side in one.type.tensor_type.shape.dim]
        for one in (*model.graph.input, *model.graph.output)
    }
    assert shapes["features_3"] == ["h", "w", 128]
    assert shapes["word_mask"] == ["expressions", "words"]
    assert shapes["logits"] == ["expressions", "4*h", "4*w"]
    assert shapes["masks"] == ["expressions", "height", "width"]


@pytest.mark.slow
def test_the_documents_programs_give_a_predictors_masks_from_exported_files_alone(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = maris_fast("export", untrained, "--onnx", "--torch", "--encoders")
    assert done.exit_code == 0, said(done)
    assert "random encoders" in said(done)
    pixels = np.random.default_rng(0).integers(0, 256, (61, 140, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("photo.jpg")
    predictor = Predictor(untrained)
    with_onnx, with_torch = re.findall(
        r"\n```python\n(.*?)\n```\n", (ROOT / "docs" / "export.md").read_text(), re.DOTALL
    )
    names: dict[str, Any] = {}
    exec(with_onnx, names)
    exec(with_torch, names)
    wanted = predictor.logits("photo.jpg", names["sentences"])
    clear = (wanted.abs() > 1e-4).numpy()
    assert clear.mean() > 0.99
    for masks in (names["masks"], names["said"]["masks"].numpy()):
        assert np.array_equal(masks[clear], (wanted > 0).numpy()[clear])
    image = torch.from_numpy(np.asarray(names["resized"]))
    program = torch.export.load("exported/image_encoder.pt2").module()
    for level, feature in enumerate(predictor.encode("photo.jpg").features, start=1):
        torch.testing.assert_close(program(image=image)[f"features_{level}"], feature, rtol=0, atol=1e-4)
        np.testing.assert_allclose(names["features"][level - 1], feature, rtol=0, atol=1e-4)
    words = torch.export.load("exported/text_encoder.pt2").module()
    for number in (1, 75):  # the fewest words and the most
        ids = torch.tensor([[49406, *torch.arange(300, 300 + number).tolist(), 49407]])
        wanted_words = predictor.text.token_features(ids)[:, 1:]
        for found in (words(ids=ids), ONNX.opened(Path("exported/text_encoder.onnx"))({"ids": ids})):
            torch.testing.assert_close(found["words"], wanted_words, rtol=0, atol=1e-4)
            assert found["word_mask"].all()


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 128))
def test_the_resized_size_is_that_of_the_geometry(height: int, width: int, tokens: int) -> None:
    image_size = 16 * tokens
    wanted = [int(side * (image_size / max(height, width)) + 0.5) for side in (height, width)]
    assert resized_to(torch.tensor([height, width]), image_size).tolist() == wanted


def test_a_model_that_cannot_be_exported_is_refused_by_its_setting(untrained: Path, tmp_path: Path) -> None:
    settings = ModelSettings(channels=16, heads=2, enhancement="vit_det")
    meta = read_meta(untrained).model_copy(update={"model": settings})
    model = Maris(settings, meta.visual_channels, meta.text_channels)
    save_weights(tmp_path / "best.safetensors", model.state_dict(), meta)
    done = maris_fast("export", tmp_path, "--torch", "--out", tmp_path / "exported")
    assert done.exit_code == 2
    assert "enhancement = vit_det cannot be exported" in said(done)
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "add --onnx, --torch, or both"),
        (["--torch", "--sam-weights", "sam.pth"], "add --encoders"),
        (["--torch", "--license", "Apache 2"], "--license is 'Apache 2'"),
        (["--torch", "--out", "full"], "is not empty"),
    ],
)
def test_wrong_options_are_refused_before_anything_is_written(
    arguments: list[str], told: str, untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("full").mkdir()
    Path("full", "mine").touch()
    done = maris_fast("export", untrained, *arguments)
    assert done.exit_code == 2
    assert told in said(done)
    assert [one.name for one in tmp_path.iterdir()] == ["full"]


def test_without_the_extra_the_error_names_it(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    done = maris_fast("export", untrained, "--onnx", "--out", tmp_path / "exported")
    assert done.exit_code == 2
    assert "ONNX needs onnxruntime" in said(done)
    assert "pip install 'maris-fast[onnx]'" in said(done)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "told"),
    [(lambda value: value + 0.01, r"0\.0"), (lambda value: value * float("nan"), "nan, more than")],
)
def test_a_file_that_computes_something_else_is_an_error(
    untrained: Path, tmp_path: Path, changed: Callable[[Tensor], Tensor], told: str
) -> None:
    part = text_encoder_of(Predictor(untrained).text)
    _, meta = load_weights(untrained)

    def wrong(path: Path) -> Any:
        run = PROGRAM.opened(path)
        return lambda inputs: {name: changed(value) for name, value in run(inputs).items()}

    with pytest.raises(CheckpointError, match=rf"text_encoder\.pt2 differs from the model by {told}"):
        export_part(part, [Format(".pt2", PROGRAM.write, wrong)], Description.of(part, meta, None), tmp_path)


@pytest.mark.slow
def test_parameters_that_are_too_large_for_an_onnx_file_lie_beside_it(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "_MOST_INSIDE", 1 << 20)
    part = text_encoder_of(Predictor(untrained).text)
    _, meta = load_weights(untrained)
    export_part(part, [ONNX], Description.of(part, meta, None), tmp_path)
    assert {one.name for one in tmp_path.iterdir()} == {"text_encoder.onnx", "text_encoder.onnx.data"}
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert ONNX.opened(moved / "text_encoder.onnx")(part.examples[0])["words"].isfinite().all()
