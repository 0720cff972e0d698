"""``import maris_fast``: the public Python interface, and its errors for wrong arguments."""

from __future__ import annotations

import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import maris_fast
from maris_fast import Predictor
from tests.cli.untrained import write_untrained

PIXELS = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
SENTENCES = ["the red circle", "bar", "leftmost"]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder."""
    folder = tmp_path_factory.mktemp("run")
    return write_untrained(folder).rename(folder / "best.safetensors").parent


@pytest.fixture(scope="module")
def predictor(run: Path) -> Predictor:
    return Predictor(run)


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(PIXELS).save(path)
    return path


@pytest.mark.process
def test_importing_the_package_imports_neither_torch_nor_numpy_and_names_come_when_used() -> None:
    program = (
        "import sys, maris_fast; assert set(maris_fast.__all__) <= set(dir(maris_fast)); "
        "maris_fast.InputError; print(sorted({'torch', 'numpy', 'pydantic'} & {*sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_documents_list_every_name_and_there_is_no_other() -> None:
    page = (Path(__file__).parents[1] / "docs" / "api.md").read_text()
    places = re.findall(r"^::: (maris_fast\S+)", page, re.MULTILINE)
    documented = {pkgutil.resolve_name(place) for place in places}
    for name in maris_fast.__all__:
        found = getattr(maris_fast, name)
        assert found.__doc__, name
        assert found in documented or (found.__module__ == "maris_fast.errors" and name in page), name
    elsewhere = re.search(r"Only the types of arguments and\s+results (.+) are not:", page)
    assert elsewhere
    names = {place.rpartition(".")[2] for place in places} - {"errors"}
    assert names - set(maris_fast.__all__) == set(re.findall(r"`(\w+)`", elsewhere[1]))
    with pytest.raises(AttributeError, match="no attribute 'predict'"):
        maris_fast.predict  # noqa: B018


def test_a_sentence_gives_one_mask_and_a_list_one_for_each_at_the_photographs_size(
    predictor: Predictor, photo: Path
) -> None:
    mask = predictor.masks(photo, SENTENCES[0])
    assert (mask.dtype, mask.shape) == (np.bool_, (90, 140))
    masks = predictor.masks(photo, SENTENCES)
    assert (masks.dtype, masks.shape) == (np.bool_, (3, 90, 140))
    assert predictor.masks(photo, SENTENCES[:1]).shape == (1, 90, 140)
    logits = predictor.logits(photo, SENTENCES[0])
    np.testing.assert_array_equal(mask, logits.numpy() > 0)
    # Padding to the longest sentence may change the last bit.
    torch.testing.assert_close(predictor.logits(photo, SENTENCES)[0], logits)
    of_several, found = predictor.attention(photo, SENTENCES)
    assert (of_several.shape, len(found)) == ((3, 90, 140), 3)
    for sentence, one in zip(SENTENCES, found, strict=True):
        of_one, alone = predictor.attention(photo, sentence)
        assert of_one.shape == (90, 140)
        assert (one.text, one.tokens) == (alone.text, alone.tokens)
        np.testing.assert_allclose(alone.blocks, one.blocks, rtol=1e-4, atol=1e-6)


def test_sentences_may_come_from_a_generator(predictor: Predictor, photo: Path) -> None:
    masks, found = predictor.attention(photo, (text for text in SENTENCES))
    assert [one.text for one in found] == SENTENCES
    np.testing.assert_array_equal(masks, predictor.masks(photo, iter(SENTENCES)))


@pytest.mark.parametrize("place", ["sam.encode", "model.forward"])
def test_lack_of_gpu_memory_is_an_error_that_says_what_to_change(
    predictor: Predictor, photo: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    def full(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    part, name = place.split(".")
    monkeypatch.setattr(getattr(predictor, part), name, full)
    with pytest.raises(maris_fast.MemoryShortageError, match=r"allocate 2\.00 GiB; .*set `device` to cpu"):
        predictor.masks(photo, SENTENCES)


def test_a_path_an_image_an_array_and_features_mean_the_same(predictor: Predictor, photo: Path) -> None:
    wanted = predictor.logits(photo, SENTENCES)
    assert wanted.std() > 0
    for image in (str(photo), Image.open(photo), PIXELS, predictor.encode(photo)):
        np.testing.assert_array_equal(predictor.logits(image, SENTENCES).numpy(), wanted.numpy())
    assert not torch.equal(predictor.logits(PIXELS[:, ::-1].copy(), SENTENCES), wanted)


@pytest.mark.parametrize(
    ("image", "expressions", "kind", "message"),
    [
        (PIXELS / 255, "bar", TypeError, r"image is an array float64 \[90, 140, 3\]; expected uint8 \[H, W"),
        (np.dstack([PIXELS, PIXELS[..., :1]]), "bar", ValueError, r"image is an array uint8 \[90, 140, 4\]"),
        (
            PIXELS[..., 0],
            "bar",
            ValueError,
            r"image is an array uint8 \[90, 140\]; expected uint8 \[H, W",
        ),
        (PIXELS[:0], "bar", ValueError, r"image is an array uint8 \[0, 140, 3\]"),
        (torch.from_numpy(PIXELS), "bar", TypeError, "image is Tensor; expected a path, a Pillow image or"),
        (None, "bar", TypeError, "image is NoneType; expected a path"),
        ("none.jpg", "bar", maris_fast.InputError, "no image none.jpg"),
        (PIXELS, [], ValueError, "expressions is empty; expected a sentence"),
        (PIXELS, "", ValueError, "the expression '' holds no word"),
        (PIXELS, ["bar", " "], ValueError, "the expression ' ' holds no word"),
        (PIXELS, "word " * 76, ValueError, "the text tower tiny takes 77"),
        (PIXELS, None, TypeError, r"expressions is NoneType; expected a sentence \(str\) or a list"),
        (PIXELS, b"bar", TypeError, "expressions is bytes; expected"),
        (PIXELS, ["bar", 3], TypeError, r"expressions\[1\] is int; expected a sentence"),
    ],
)
def test_a_wrong_argument_gets_one_error_that_names_it(
    predictor: Predictor, image: Any, expressions: Any, kind: type[Exception], message: str
) -> None:
    for ask in (predictor.masks, predictor.logits, predictor.attention):
        with pytest.raises(kind, match=message):
            ask(image, expressions)


def test_weights_are_a_runs_folder_or_a_file_and_an_error_names_the_argument(
    run: Path, predictor: Predictor, tmp_path: Path
) -> None:
    model, meta = maris_fast.load_model(run)
    assert isinstance(model, maris_fast.Maris)
    assert meta == predictor.meta == Predictor(str(run / "best.safetensors")).meta
    (tmp_path / "last.safetensors").hardlink_to(run / "best.safetensors")
    assert maris_fast.load_model(tmp_path)[1] == meta
    with pytest.raises(maris_fast.CheckpointError, match=r"no weights in the folder .*; training writes"):
        Predictor(run.parent)
    with pytest.raises(TypeError, match="weights is int; expected the path of a run's folder"):
        Predictor(3)  # type: ignore[arg-type]
