"""The command line as a user sees it: its output, its exit status and the files it leaves."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maris_fast import __version__
from maris_fast.bench.results import ROOT
from maris_fast.config import SamSettings
from maris_fast.encoders import SamEncoder
from maris_fast.kernels.choice import table
from maris_fast.weights import save_weights
from tests.cli.untrained import write_untrained
from tests.command_line import maris_fast, said

TINY = ("encoders.sam.arch=vit_tiny", "encoders.sam.weights=random")
SCENES = ("import", "{folder}/scenes", "scenes")
CACHE = ("cache", "{folder}/dataset", "{folder}/new")
TINY_TEXT = ("encoders.text.arch=tiny", "encoders.text.weights=random")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes, the imported data set and its cache, each created by its command."""
    folder = tmp_path_factory.mktemp("cli")
    for arguments in (
        ("scenes", folder / "scenes", "--train-images", 4, "--val-images", 2),
        ("import", folder / "scenes", "scenes", "--split-by", "synthetic", "--out", folder / "dataset"),
        ("cache", folder / "dataset", folder / "cache", *TINY, *TINY_TEXT),
    ):
        result = maris_fast(*arguments)
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture(scope="module")
def weights(folder: Path) -> Path:
    return write_untrained(folder)


@pytest.fixture(scope="module")
def photo(folder: Path) -> Path:
    path = folder / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (90, 140, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_import_prints_counts_and_cache_says_random_weights(folder: Path) -> None:
    again = maris_fast(
        "import", folder / "scenes", "scenes", "--split-by", "synthetic", "--out", folder / "dataset2"
    )
    assert "train" in again.output
    assert "no published counts" in said(again)
    cached = maris_fast(
        "cache", folder / "dataset", folder / "cache2", "--split", "val", *TINY, *TINY_TEXT, "batch_size=2"
    )
    assert "val: 2 images" in said(cached)
    assert "random weights in sam and text" in said(cached)
    assert sorted(path.name for path in (folder / "cache2").glob("*.tar")) == ["val-000000.tar"]


def test_every_command_takes_its_folder_as_out_and_as_before(folder: Path, tmp_path: Path) -> None:
    assert (
        maris_fast("scenes", "--out", tmp_path / "s", "--train-images", 4, "--val-images", 2).exit_code == 0
    )
    whole = [one for one in (folder / "scenes").rglob("*") if one.is_file()]
    assert all((tmp_path / "s" / one.relative_to(folder / "scenes")).is_file() for one in whole)
    named = maris_fast(
        "cache", folder / "dataset", "--out", tmp_path / "cache", *TINY, *TINY_TEXT, "--split", "val"
    )
    assert named.exit_code == 0, named.output
    before = (folder / "cache" / "val-000000.tar").read_bytes()
    assert (tmp_path / "cache" / "val-000000.tar").read_bytes() == before
    for words in ((), ("device=cpu",), ("encoders.sam.weights=a/b.pth", "device=cpu")):
        nowhere = maris_fast("cache", folder / "dataset", *words)
        assert nowhere.exit_code == 2
        assert "error: no folder to write to; name one with --out" in said(nowhere)


def test_predict_writes_a_mask_and_an_overlay_for_each_expression(
    folder: Path, weights: Path, photo: Path, tmp_path: Path
) -> None:
    result = maris_fast("predict", photo, "the red circle", "bar", "--weights", weights, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "trained on features of random encoders (sam and text)" in said(result)
    for number in (1, 2):
        mask = Image.open(tmp_path / f"photo-{number}-mask.png")
        assert mask.size == (140, 90)
        overlay = Image.open(tmp_path / f"photo-{number}-overlay.png")
        assert overlay.width == 140
        assert overlay.height > 90  # the caption


def test_info_describes_weights_data_set_cache_and_machine(folder: Path, weights: Path) -> None:
    assert "random_encoders" in said(maris_fast("info", weights))
    assert "synthetic" in said(maris_fast("info", folder / "dataset"))
    assert "text_channels" in said(maris_fast("info", folder / "cache"))
    machine = said(maris_fast("info"))
    assert "mutual_attention on cpu │ reference" in machine
    assert "multihead_attention on cpu │ sdpa" in machine
    assert "cross_attention on cpu │ folded where it has fewer products" in machine


def test_info_lists_a_package_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if name == "xformers":
            raise PackageNotFoundError(name)
        return "1.2.3"

    monkeypatch.setattr(table, "version", version)
    told = maris_fast("info")
    assert told.exit_code == 0, said(told)
    assert "xformers │ not installed" in said(told)
    assert "deepspeed │ 1.2.3" in said(told)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("no image", "no image"),
        ("text file", "not a readable image"),
        ("cut image", "cannot be decoded"),
        ("empty expression", "holds no word"),
        ("long expression", "text tower tiny takes 77"),
        ("no weights", "no weights"),
        ("pickled weights", "weights load as data only"),
    ],
)
def test_predict_says_what_is_wrong_and_writes_nothing(
    folder: Path, weights: Path, photo: Path, tmp_path: Path, change: str, message: str
) -> None:
    image, expression, used = photo, "the circle", weights
    if change == "no image":
        image = tmp_path / "none.png"
    elif change == "text file":
        image = tmp_path / "text.jpg"
        image.write_text("not an image")
    elif change == "cut image":
        image = tmp_path / "cut.jpg"
        Image.open(photo).save(image)
        image.write_bytes(image.read_bytes()[:3000])
    elif change == "empty expression":
        expression = "  "
    elif change == "long expression":
        expression = "very " * 80
    elif change == "no weights":
        used = tmp_path / "none.safetensors"
    elif change == "pickled weights":
        used = tmp_path / "best.pt"
        torch.save({"model": torch.zeros(1)}, used)
    out = tmp_path / "out"
    result = maris_fast("predict", image, expression, "--weights", used, "--out", out)
    assert result.exit_code == 2
    assert message in said(result)
    assert "Traceback" not in said(result)
    assert not out.exists()


def test_a_predictor_refuses_other_encoders_than_the_model_was_trained_with(
    folder: Path, weights: Path, photo: Path, tmp_path: Path
) -> None:
    from maris_fast.weights import load_weights

    tensors, meta = load_weights(weights)
    sam = meta.encoders.sam.model_copy(update={"sha256": "0" * 64, "seed": None})
    encoders = meta.encoders.model_copy(update={"sam": sam})
    real = tmp_path / "real.safetensors"
    save_weights(real, tensors, meta.model_copy(update={"encoders": encoders, "random_encoders": ("text",)}))
    missing = maris_fast("predict", photo, "circle", "--weights", real)
    assert missing.exit_code == 2
    assert "--sam-weights" in said(missing)
    other = tmp_path / "other.pth"
    vit = SamEncoder(SamSettings(arch="vit_tiny", weights="random", seed=1)).vit
    torch.save({f"image_encoder.{name}": value for name, value in vit.state_dict().items()}, other)
    refused = maris_fast("predict", photo, "circle", "--weights", real, "--sam-weights", other)
    assert refused.exit_code == 2
    assert "sam.sha256" in said(refused)


class Payload:
    """Runs code when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (self.trace,)  # type: ignore[return-value]


def test_import_refuses_a_pickle_that_runs_code_and_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    root, trace = tmp_path / "root", tmp_path / "trace"
    (root / "refcoco").mkdir(parents=True)
    (root / "refcoco" / "refs(unc).p").write_bytes(pickle.dumps([Payload(trace)]))
    result = maris_fast("import", root, "refcoco", "--split-by", "unc", "--out", tmp_path / "out")
    assert result.exit_code == 2
    assert not trace.exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((*SCENES, "--split-by", "synthetic", "--out", "{folder}/cache"), "not empty"),
        ((*SCENES, "--split-by", "unc", "--out", "{folder}/new"), "refs(unc).p"),
        ((*SCENES, "--split-by", "synthetic", "--split", "tset", "--out", "{folder}/new"), "train"),
        (("scenes", "{folder}/scenes"), "not empty"),
        ((*CACHE, *TINY, *TINY_TEXT, "--split", "tset"), "train"),
        ((*CACHE, *TINY, "encoders.sam.wieghts=x"), "did you mean 'weights'"),
        ((*CACHE, "encoders.sam.weights=/none.pth"), "no weights at /none.pth"),
        (("cache", "{folder}/dataset", "{folder}/scenes", *TINY, *TINY_TEXT), "not empty"),
        (
            ("cache", "{folder}/dataset", "{folder}/cache", *TINY, *TINY_TEXT, "feature_dtype=bf16"),
            "feature_dtype: int8 against bf16",
        ),
        (("info", "{folder}"), "not a weights file, imported data set, cache"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_status_2(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    result = maris_fast(*(argument.format(folder=folder) for argument in arguments))
    assert result.exit_code == 2
    assert "error:" in said(result)
    assert message in said(result)
    assert not (folder / "new").exists()


@pytest.mark.process
def test_the_installed_command_starts_without_loading_torch() -> None:
    loaded = "print({'torch', 'deepspeed'} & sys.modules.keys())"
    code = f"import sys; from maris_fast.cli import app; app(['--version'], standalone_mode=False); {loaded}"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.splitlines() == [f"maris-fast {__version__}", "set()"]
    (project,) = re.findall(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert __version__ == project
