"""A photograph and its twins in other EXIF orientations get the same mask from every interface."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maris_fast.demo.answers import Demo
from maris_fast.prediction import Predictor
from tests.command_line import maris_fast
from tests.pictures import TURNS, exif_of, stored_for, turned

SENTENCE = "the red circle"


@pytest.fixture(scope="module")
def predictor(weights: Path) -> Predictor:
    return Predictor(weights)


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    """An image without any symmetry."""
    rows, columns = np.mgrid[:90, :140]
    return np.stack([rows * 2, columns, (rows * columns) % 256], axis=-1).astype(np.uint8)


@pytest.fixture(scope="module")
def wanted(predictor: Predictor, scene: np.ndarray) -> np.ndarray:
    logits = predictor.logits(Image.fromarray(scene), [SENTENCE])[0].numpy()
    assert logits.shape == (90, 140)
    assert not np.allclose(logits, logits[::-1])
    assert not np.allclose(logits, logits[:, ::-1])
    return logits


@pytest.mark.parametrize("turn", TURNS)
def test_the_predictor_gives_a_turned_twin_the_same_logits_and_mask_by_path_and_as_an_image(
    predictor: Predictor, scene: np.ndarray, wanted: np.ndarray, tmp_path: Path, turn: int
) -> None:
    photo = turned(tmp_path / "photo.png", turn, scene)
    np.testing.assert_array_equal(predictor.masks(photo, SENTENCE), wanted > 0)
    with Image.open(photo) as image:
        np.testing.assert_array_equal(predictor.logits(image, [SENTENCE])[0].numpy(), wanted)
        masks, _ = predictor.attention(image, [SENTENCE])
    np.testing.assert_array_equal(masks[0], wanted > 0)


def test_the_predictor_gives_a_jpeg_of_a_phone_the_mask_of_what_is_seen(
    predictor: Predictor, scene: np.ndarray, tmp_path: Path
) -> None:
    stored = Image.fromarray(np.ascontiguousarray(stored_for(6, scene)))
    stored.save(tmp_path / "phone.jpg", exif=exif_of(6))
    stored.save(tmp_path / "raw.jpg")
    decoded = Image.open(tmp_path / "raw.jpg").transpose(Image.Transpose.ROTATE_270)
    found = predictor.logits(Image.open(tmp_path / "phone.jpg"), [SENTENCE])
    assert found.shape == (1, 90, 140)
    np.testing.assert_array_equal(found.numpy(), predictor.logits(decoded, [SENTENCE]).numpy())


def predict(weights: Path, photo: Path, out: Path) -> list[bytes]:
    """Run the command on the CPU and return the contents of the files that it writes."""
    named = ("--weights", str(weights), "--out", str(out), "--device", "cpu")
    done = maris_fast("predict", str(photo), SENTENCE, *named)
    assert done.exit_code == 0, done.output
    return [(out / f"photo-1-{what}.png").read_bytes() for what in ("mask", "overlay")]


@pytest.fixture(scope="module")
def of_twin(weights: Path, scene: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("twin")
    return predict(weights, turned(folder / "photo.png", 1, scene), folder)


@pytest.mark.parametrize("turn", TURNS)
def test_predict_writes_the_same_files_for_a_turned_twin(
    weights: Path, scene: np.ndarray, wanted: np.ndarray, of_twin: list[bytes], tmp_path: Path, turn: int
) -> None:
    assert predict(weights, turned(tmp_path / "photo.png", turn, scene), tmp_path) == of_twin
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "photo-1-mask.png")) > 0, wanted > 0)


@pytest.mark.slow
def test_attention_and_the_demo_see_a_turned_twin_as_it_is_shown(
    weights: Path, predictor: Predictor, scene: np.ndarray, wanted: np.ndarray, tmp_path: Path
) -> None:
    photo = turned(tmp_path / "photo.png", 6, scene)
    arguments = ["attention", str(photo), SENTENCE, "--weights", str(weights), "--out", str(tmp_path / "out")]
    # A corner that is outside the photograph as stored, 90 pixels wide.
    done = maris_fast(*arguments, "--pixel", "139,89", "--device", "cpu")
    assert done.exit_code == 0, done.output
    assert f"{(wanted > 0).mean():.1%} of the image" in done.output
    np.testing.assert_array_equal(Demo(predictor).segment(photo, SENTENCE).masks[0], wanted > 0)
