"""Pictures drawn by running the models: in the report and by commands; and the page in a browser."""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maris_fast.data_shards.stream import CacheReader
from maris_fast.model import Maris
from maris_fast.pictures.overlays import Panel, masked
from maris_fast.reports import click_maps, model_pictures
from maris_fast.reports.chosen_examples import examples_of
from maris_fast.reports.click_maps import attention_of, attention_of_run
from maris_fast.reports.data_uris import small_png_uri
from maris_fast.train.ranks import Ranks
from maris_fast.weights import load_model, load_weights, save_weights
from tests.command_line import maris_fast, said
from tests.training.browser import chromium, opened
from tests.training.processes import run, tiny_training
from tests.training.test_training_report import Page, read
from tests.training.tiny_cache import write_tiny_cache

WIDTHS = {"phone": 390, "desktop": 1280}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its cache and images, a second one, and a third whose model has no MA blocks."""
    folder = tmp_path_factory.mktemp("pictures")
    cache = write_tiny_cache(folder)
    for path in (folder / "dataset" / "images").iterdir():
        noise = Image.open(path)  # unlike photographs, noise has so many colours that counting them is slow
        noise.resize((4, 4)).resize(noise.size, Image.Resampling.BICUBIC).save(path)
    done = run(sys.executable, *tiny_training(cache, folder / "run", "run.pictures=2"))
    assert done.returncode == 0, done.stdout + done.stderr
    for name in ("second", "without_ma"):
        shutil.copytree(folder / "run", folder / name)
    shutil.copy(folder / "second" / "last.safetensors", folder / "second" / "best.safetensors")
    _, meta = load_weights(folder / "run" / "best.safetensors")
    settings = meta.model.model_copy(update={"ma_blocks": 0})
    bare = Maris(settings, meta.visual_channels, meta.text_channels)
    save_weights(
        folder / "without_ma" / "best.safetensors",
        bare.state_dict(),
        meta.model_copy(update={"model": settings}),
    )
    return folder


@pytest.fixture(scope="module")
def page(folder: Path) -> Path:
    """The page with all three runs side by side."""
    out = folder / "page" / "report.html"
    runs = [folder / name for name in ("run", "second", "without_ma")]
    result = maris_fast("report", *runs, "--out", out, "--images", 5)
    assert result.exit_code == 0, result.output
    return out


def section(page: Page, name: str, following: str) -> str:
    """The text from one heading to another."""
    return page.text.split(name, 1)[1].split(following, 1)[0]


@pytest.mark.process
def test_attention_and_examples_stand_in_the_page_of_a_run(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert maris_fast("report", folder / "run", "--out", out).exit_code == 0
    page = read(out)
    # Two sample sheets; two attention pictures for each of two expressions; three example sheets.
    assert len(page.pictures) == 2 + 2 * 2 + 3
    assert "Looked at: the first 2 images of val" in page.text
    assert "grey" not in page.text
    assert out.stat().st_size < 3_000_000


@pytest.mark.process
def test_runs_stand_side_by_side_and_one_without_attention_says_why(page: Path) -> None:
    shown = read(page)
    attention = section(shown, "\nAttention\n", "\nSuccesses and failures\n")
    assert "without_ma: this model has no mutual-aware attention to show (model.ma_blocks = 0" in attention
    assert attention.count("IoU") == 2
    text = page.read_text()
    assert 'alt="Successes, IoU by model.' in text
    for name in ("run", "second", "without_ma"):
        assert f"{name} 0." in text.split('alt="Failures, IoU by model.')[1].split('"')[0]


@pytest.mark.process
def test_the_end_of_a_training_draws_nothing_with_the_model(folder: Path) -> None:
    page = read(folder / "run" / "report.html")
    assert section(page, "\nAttention\n", "\nSpeed\n").count("maris-fast report") == 2


@pytest.mark.process
@pytest.mark.parametrize(
    ("lost", "reason"),
    [("weights", "no weights"), ("cache", "holds no feature cache"), ("images", "masks are drawn on grey")],
)
def test_what_is_missing_is_said_and_the_page_is_written(
    folder: Path, tmp_path: Path, lost: str, reason: str
) -> None:
    shutil.copytree(folder / "run", tmp_path / "run")
    arguments: list[object] = []
    images, away = folder / "dataset" / "images", folder / "dataset" / "away"
    if lost == "weights":
        (tmp_path / "run" / "best.safetensors").unlink()
    elif lost == "cache":
        arguments = ["--cache", tmp_path]
    elif lost == "images":
        images.rename(away)
    try:
        result = maris_fast("report", tmp_path / "run", *arguments)
    finally:
        if away.exists():
            away.rename(images)
    assert result.exit_code == 0, result.output
    page = read(tmp_path / "run" / "report.html")
    assert reason in section(page, "\nAttention\n", "\nSuccesses and failures\n")
    assert reason in section(page, "\nSuccesses and failures\n", "\nSpeed\n")


@pytest.mark.process
def test_caches_that_fit_no_number_of_runs_are_refused(folder: Path, tmp_path: Path) -> None:
    runs = [folder / name for name in ("run", "second", "without_ma")]
    caches = ("--cache", folder / "cache", "--cache", folder / "cache")
    result = maris_fast("report", *runs, *caches, "--out", tmp_path / "page.html")
    assert result.exit_code == 2
    assert "--cache is given 2 times for 3 runs" in said(result)


@pytest.mark.process
def test_of_many_runs_the_first_are_drawn_and_the_others_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_pictures, "MOST_RUNS", 1)
    out = tmp_path / "page.html"
    assert maris_fast("report", folder / "without_ma", folder / "second", "--out", out).exit_code == 0
    page = read(out)
    assert page.text.count("Not drawn, as the page would grow too large: second.") == 2
    assert len(page.pictures) == 2 * 2 + 3


def test_few_colours_are_near_those_of_the_picture() -> None:
    pixels = np.random.default_rng(0).integers(0, 40, (200, 200, 3)).astype(np.uint8)
    pixels[5:12, 5:12] = (250, 230, 20)  # small and unlike the rest
    shown = Image.open(io.BytesIO(base64.b64decode(small_png_uri(Image.fromarray(pixels)).split(",")[1])))
    assert np.abs(np.asarray(shown.convert("RGB")).astype(int)[8, 8] - (250, 230, 20)).max() < 16


# The commands


@pytest.mark.process
def test_examples_draws_models_side_by_side_and_records_the_rule(folder: Path, tmp_path: Path) -> None:
    weights = [folder / name / "best.safetensors" for name in ("run", "without_ma")]
    result = maris_fast(
        *("examples", weights[0], folder / "cache", "--split", "train", "--number", 2, "--device", "cpu"),
        *("--weights-b", weights[1], "--out", tmp_path),
    )
    assert result.exit_code == 0, result.output
    record = json.loads((tmp_path / "examples.json").read_text())
    assert (record["models"], record["images"]) == (["run", "without_ma"], 5)
    assert "hash" in record["rule"]
    with CacheReader(folder / "cache", "train") as reader:
        models = [load_model(path)[0] for path in weights]
        found = examples_of(models, reader, Ranks(torch.device("cpu")))
    best = max(one.ious[0] for one in found)
    assert record["successes"][0]["iou"][0] == pytest.approx(best, abs=1e-4)
    for name in ("successes", "failures", "steps"):
        assert [len(record[name]), Image.open(tmp_path / f"{name}.png").width] == [2, 4 * 208 + 8]


@pytest.mark.process
def test_examples_refuses_features_of_other_encoders(folder: Path, tmp_path: Path) -> None:
    tensors, meta = load_weights(folder / "run" / "best.safetensors")
    sam = meta.encoders.sam.model_copy(update={"seed": 7})
    other = meta.model_copy(update={"encoders": meta.encoders.model_copy(update={"sam": sam})})
    save_weights(tmp_path / "other.safetensors", tensors, other)
    result = maris_fast(
        "examples", tmp_path / "other.safetensors", folder / "cache", "--out", tmp_path / "out"
    )
    assert result.exit_code == 2
    assert "sam.seed: 7 against 0" in said(result)
    assert not (tmp_path / "out").exists()


@pytest.mark.process
def test_attention_draws_words_and_regions(folder: Path, tmp_path: Path) -> None:
    arguments = ("attention", folder / "dataset" / "images" / "2.png", "the green one")
    weights = ("--weights", folder / "run" / "best.safetensors", "--out", tmp_path)
    result = maris_fast(*arguments, *weights, "--pixel", "0,0", "--pixel", "63,95")
    assert result.exit_code == 0, result.output
    assert {path.name for path in tmp_path.iterdir()} == {
        "2-words.png",
        "2-regions-block1.png",
        "2-regions-block2.png",
    }
    lines = [line for line in result.output.splitlines() if line.startswith("pixel")]
    assert [line.split(":")[0] for line in lines] == [
        f"pixel {pixel}, block {block}" for pixel in ("0,0", "63,95") for block in (1, 2)
    ]
    for line in lines:
        weights_said = [float(part.split()[-1]) for part in line.split(":", 1)[1].split(", ")]
        assert len(weights_said) == 4
        assert sum(weights_said) == pytest.approx(1, abs=0.02) or sum(weights_said) == 0
    one = tmp_path / "one"
    assert maris_fast(*arguments, *weights[:3], one, "--block", 2).exit_code == 0
    assert {path.name for path in one.iterdir()} == {"2-words.png", "2-regions-block2.png"}


@pytest.mark.process
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (("--pixel", "64,0"), "pixel 64,0 is outside the image; expected x from 0 to 63"),
        (("--pixel", "12"), "--pixel '12'; expected two whole numbers"),
        (("--block", "3"), "--block 3, but the model has 2"),
        (("--weights", "{folder}/without_ma/best.safetensors"), "no mutual-aware attention to show"),
        (("--weights", "{folder}/none.safetensors"), "no weights"),
    ],
)
def test_attention_says_what_is_wrong_and_writes_nothing(
    folder: Path, tmp_path: Path, changes: tuple[str, str], message: str
) -> None:
    options = {"--weights": f"{folder}/run/best.safetensors", "--out": f"{tmp_path}/out"}
    options[changes[0]] = changes[1].format(folder=folder)
    given = [part for option in options.items() for part in option]
    result = maris_fast("attention", folder / "dataset" / "images" / "2.png", "the green one", *given)
    assert result.exit_code == 2
    assert message in said(result)
    assert not (tmp_path / "out").exists()


# In a browser


@pytest.mark.process
@pytest.mark.parametrize("device", WIDTHS)
def test_the_page_loads_fits_and_has_a_silent_console(page: Path, device: str) -> None:
    seen = opened(page, width=WIDTHS[device])
    assert seen.console == []
    assert seen.missing == []
    assert seen.pictures == len(read(page).pictures)
    assert seen.width == WIDTHS[device]
    assert seen.scroll_width <= seen.width


@pytest.mark.process
def test_a_tapped_picture_tells_the_words_of_that_spot(folder: Path, page: Path) -> None:
    ask = """
    const box = page.querySelector(".clickmap"), picture = box.querySelector(".tokens");
    const place = picture.getBoundingClientRect();
    const cells = () => [...box.querySelectorAll("tbody tr")].map(
        line => [...line.querySelectorAll("td")].map(cell => parseInt(cell.textContent)));
    const before = cells();
    const at = (x, y) => {
      picture.dispatchEvent(new view.MouseEvent("click",
        {clientX: place.left + x * place.width, clientY: place.top + y * place.height}));
      return cells();
    };
    return {before, spots: [at(0, 0), at(0.999, 0), at(0.55, 0.45), at(0.999, 0.999)],
      title: box.previousElementSibling.textContent};
    """
    asked = opened(page, width=WIDTHS["desktop"], ask=ask).asked
    with CacheReader(folder / "cache", "val") as reader:
        model, _ = load_model(folder / "run" / "best.safetensors")
        first = examples_of([model], reader, Ranks(torch.device("cpu")))[0]
        attention = attention_of(model, reader.evaluation_batches(), {first.order})[first.order]
    assert f"“{attention.text}”" in asked["title"]
    height, width = attention.geometry.height, attention.geometry.width
    spots = [(0, 0), (width - 1, 0), (int(0.55 * width), int(0.45 * height)), (width - 1, height - 1)]
    for told, (x, y) in zip(asked["spots"], spots, strict=True):
        np.testing.assert_allclose(np.array(told).T, 100 * attention.words_at(x, y), atol=0.75)
    sums = np.array(asked["before"]).sum(0)
    assert ((np.abs(sums - 100) <= 3) | (sums == 0)).all()


@pytest.mark.process
def test_the_attention_of_a_model_stands_beside_its_own_mask_and_iou(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown: list[Panel] = []
    monkeypatch.setattr(
        click_maps, "masked", lambda panel, **size: (shown.append(panel), masked(panel, **size))[1]
    )
    with CacheReader(folder / "cache", "train") as reader:
        models = [load_model(folder / name / "best.safetensors")[0] for name in ("without_ma", "run")]
        found = examples_of(models, reader, Ranks(torch.device("cpu")))
        one = next(one for one in found if one.ious[0] != one.ious[1])
        drawn = attention_of_run("run", models[1], reader, [one], 1, folder / "dataset" / "images")
    assert drawn.expressions[0].iou == one.ious[1]
    np.testing.assert_array_equal(shown[0].prediction, one.predictions[1].decode())


def test_the_browser_sees_what_is_wrong(tmp_path: Path) -> None:
    """Otherwise the tests above would pass on any page."""
    chromium()
    page = tmp_path / "bad.html"
    page.write_text(
        '<!DOCTYPE html><meta name="viewport" content="width=device-width">'
        '<img alt="lost" src="data:image/png,no">'
        '<div style="width: 2000px">wide</div><script>nothing.here();</script>'
    )
    seen = opened(page, width=390)
    assert seen.missing == ["lost"]
    assert seen.scroll_width >= 2000 > seen.width == 390
    assert any("nothing is not defined" in line for line in seen.console)
