"""A run as a user sees it: lines, pictures, TensorBoard, the W&B mirror, and the report at its end."""

from __future__ import annotations

import base64
import io
import json
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from maris_fast.reports import figures, run_tables
from maris_fast.reports.run_data import RunData
from maris_fast.train.loop import _report
from tests.command_line import maris_fast
from tests.training.processes import records, run, tiny_training
from tests.training.tiny_cache import write_tiny_cache

SECTIONS = [
    *("scores", "pictures", "attention", "examples", "curves"),
    *("speed", "configuration", "environment"),
]
"""Without ``paper``: one run of a reading of MARIS, on other data, has nothing to compare with its rows."""
VOID = {"meta", "img", "br", "link", "use", "path"}

# A test double of wandb, which the project does not depend on; it records its calls.
WANDB = """
import json, os, pathlib
class Image:
    def __init__(self, picture): self.size = picture.size
class Run:
    def __init__(self, **told): self.told = [{k: str(v) for k, v in told.items()}]
    def log(self, values, step):
        self.told.append([step, {k: v.size if isinstance(v, Image) else v for k, v in values.items()}])
    def finish(self): pathlib.Path(__file__).with_name("told.json").write_text(json.dumps(self.told))
def init(**told): return Run(**told)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one rank whose images were deleted, mirrored to a test double of wandb."""
    folder = tmp_path_factory.mktemp("seen")
    cache = write_tiny_cache(folder)
    shutil.rmtree(folder / "dataset" / "images")
    (folder / "packages").mkdir()
    (folder / "packages" / "wandb.py").write_text(WANDB)
    done = run(
        *(sys.executable, *tiny_training(cache, folder / "run", "run.log_every=3", "run.pictures=2")),
        *("run.wandb_project=maris", "run.peak_tflops=0.5"),
        packages=[folder / "packages"],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder / "stdout").write_text(done.stdout)
    return folder


@pytest.mark.process
def test_each_record_is_a_line_and_missing_images_are_said_once(folder: Path) -> None:
    lines = (folder / "stdout").read_text().splitlines()
    assert [line.split()[:2] for line in lines if line.startswith("step")] == [
        ["step", "3/8"],
        ["step", "6/8"],
        ["step", "8/8"],
    ]
    assert lines[:4] == [
        f"training on 1 rank into {folder / 'run'}: metrics.jsonl, tensorboard, best.safetensors, "
        "last.safetensors",
        f"cache {folder / 'cache'}: train 15 expressions of 5 images; val 7 expressions of 2 images",
        "loading PyTorch and DeepSpeed",
        "8 steps, 4 an epoch, 8 expressions a step; 1 rank on cpu in fp32; a line every 3 steps",
    ]
    assert re.fullmatch(r"first step \(1\) done after \d+\.\d s: loss \d\.\d{4}", lines[4])
    assert sum(line.startswith("eval") for line in lines) == 2
    assert sum("masks are drawn on grey" in line for line in lines) == 1
    assert lines[-1].startswith("report: ")


@pytest.mark.process
def test_oiou_of_the_batches_is_on_record(folder: Path) -> None:
    steps = records(folder / "run", "train")
    assert all(0 < one["oIoU"] < 1 for one in steps)
    assert all(one["mfu"] > 0 and one["peak_tflops"] == 0.5 for one in steps)


@pytest.mark.process
def test_tensorboard_has_the_scores_by_kind_and_the_pictures(folder: Path) -> None:
    board = EventAccumulator(str(folder / "run" / "tensorboard"))
    board.Reload()
    tags = board.Tags()
    assert {"train/oIoU", "train/gb_per_s", "evaluation/oIoU", "evaluation_by_kind/oIoU/kind"} <= set(
        tags["scalars"]
    )
    assert [event.step for event in board.Images("samples")] == [4, 8]


@pytest.mark.process
def test_pictures_of_both_evaluations_show_the_same_truth(folder: Path) -> None:
    sheets = sorted((folder / "run" / "pictures").iterdir())
    assert [sheet.name for sheet in sheets] == ["step-000004.png", "step-000008.png"]
    first, second = (np.asarray(Image.open(sheet)).astype(int) for sheet in sheets)
    assert first.shape == second.shape
    below = slice(-20, None)  # captions
    assert (first[below] == second[below]).all()


@pytest.mark.process
def test_wandb_gets_the_same_records(folder: Path) -> None:
    start, *told = json.loads((folder / "packages" / "told.json").read_text())
    assert (start["project"], start["name"], start["resume"]) == ("maris", "run", "allow")
    losses = [(step, values["train/loss"]) for step, values in told if "train/loss" in values]
    assert losses == [(one["step"], one["loss"]) for one in records(folder / "run", "train")]
    assert [step for step, values in told if "samples" in values] == [4, 8]


class Page(HTMLParser):
    """Sections, text and pictures of a page, and whether its tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.open: list[str] = []
        self.pictures: list[bytes] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.svgs = 0
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attributes}
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.sections.append(values["id"])
        if tag == "img":
            kind, _, data = values["src"].partition(",")
            assert kind == "data:image/png;base64"
            self.pictures.append(base64.b64decode(data, validate=True))
        self.svgs += tag == "svg"
        self.ids += [values["id"]] if "id" in values else []
        self.loads += [value for name, value in values.items() if name in {"src", "href", "xlink:href"}]

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def read(path: Path) -> Page:
    text = path.read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert "url(" not in text.replace("url(#", "")
    page = Page(text)
    assert page.open == []
    assert page.sections == SECTIONS
    assert all(value.startswith("data:") or value[1:] in page.ids for value in page.loads)
    assert len(page.ids) == len(set(page.ids))
    for picture in page.pictures:
        Image.open(io.BytesIO(picture)).load()
    return page


def command(*arguments: object) -> str:
    result = maris_fast("report", *map(str, arguments))
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.process
def test_a_finished_run_leaves_its_report(folder: Path) -> None:
    page = read(folder / "run" / "report.html")
    assert len(page.pictures) == 2
    assert page.svgs == len(figures.LEARNING) + len(figures.SPEED)
    assert "finished, 8 steps" in page.text
    best = max(one["oIoU"] for one in records(folder / "run", "evaluation"))
    assert f"{best:.3f}" in page.text
    for said in ("run.peak_tflops", "packages.torch", "Pr@90", "of 0.5 TFLOP/s a device"):
        assert said in page.text


def but_for_the_time(page: Path) -> list[str]:
    """A page's lines without the title, which differs by file, and without the time of writing."""
    lines = read(page).text.splitlines()
    stamps = [line for line in lines if "; written " in line]
    assert len(stamps) == 1
    lines.remove(stamps[0])
    return lines[5:]


@pytest.mark.process
def test_the_command_writes_the_same_again(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "page.html"
    assert str(out) in command(folder / "run", "--out", out, "--no-draw")
    assert but_for_the_time(out) == but_for_the_time(folder / "run" / "report.html")


@pytest.fixture
def unfinished(folder: Path, tmp_path: Path) -> Path:
    """A run that was killed after its first record, in the middle of a line."""
    other = tmp_path / "other"
    shutil.copytree(folder / "run", other)
    lines = (other / "metrics.jsonl").read_text().splitlines()
    (other / "metrics.jsonl").write_text(f"{lines[0]}\n{lines[1][:40]}")
    shutil.rmtree(other / "pictures")
    (other / "environment.json").unlink()
    settings = other / "settings.yaml"
    settings.write_text(settings.read_text().replace("channels: 16", "channels: 24"))
    return other


@pytest.mark.process
def test_runs_stand_side_by_side_whatever_they_lack(folder: Path, unfinished: Path, tmp_path: Path) -> None:
    out = tmp_path / "both.html"
    command(folder / "run", unfinished, "--out", out)
    page = read(out)
    for said in ("not finished: step 3 of 8", "no evaluation yet", "Where the runs differ", "model.channels"):
        assert said in page.text
    command(unfinished, "--out", out)
    assert "No environment.json" in read(out).text


@pytest.mark.process
def test_a_run_without_a_step_has_a_report(unfinished: Path) -> None:
    (unfinished / "metrics.jsonl").unlink()
    command(unfinished)
    page = read(unfinished / "report.html")
    assert "no step recorded yet" in page.text
    assert page.svgs == 0


def test_a_folder_without_a_run_is_refused_in_one_line(tmp_path: Path) -> None:
    result = maris_fast("report", str(tmp_path))
    assert result.exit_code == 2
    assert "holds no run (no settings.yaml)" in " ".join(result.output.split())


@pytest.mark.process
def test_a_report_that_fails_costs_no_run(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: object) -> None:
        raise OSError("No space left on device")

    _report(folder / "run", full)
    assert f"again: maris-fast report {folder / 'run'}" in caplog.text


@pytest.mark.process
def test_times_add_up_over_the_starts_of_a_run(folder: Path) -> None:
    data = RunData.read(folder / "run")
    data.steps[:] = [{"elapsed_s": seconds} for seconds in (1800, 3600, 600, 1800)]
    assert run_tables.duration(data) == "1.50 hours"
    del data.steps[1:]
    assert run_tables.duration(data) == "30.0 minutes"


@pytest.mark.process
def test_a_start_that_ended_sooner_than_the_next_ones_first_record_is_counted(folder: Path) -> None:
    data = RunData.read(folder / "run")
    assert {one["resumed_from"] for one in data.steps} == {0}
    data.steps[:] = [
        {"elapsed_s": seconds, "resumed_from": step} for seconds, step in ((20, 0), (25, 7), (30, 7), (60, 9))
    ]
    assert data.seconds == 20 + 30 + 60


def test_speeds_are_told_in_the_units_that_tables_and_figures_name() -> None:
    step = {"step": 1, "data_wait_share": 0.25, "memory_mb": 20480, "elapsed_s": 60, "resumed_from": 0}
    steps = [{**step, "expressions_per_s": 700, "images_per_s": 100}]
    cells = dict(run_tables.speed([RunData("run", Path(), {}, {}, steps, [], [])]).rows)
    assert cells["expressions a second"] == "700"
    assert cells["images a second"] == "100"
    assert cells["waiting for data"] == "25.0%"
    assert cells["peak memory"] == "20.0 GiB"
    drawn = {chart.title: figures._points(steps, chart.curves[0])[0, 1] for chart in figures.SPEED[:3]}
    assert drawn == {
        "Expressions a second": 700,
        "Waiting for data, % of the time": 25,
        "Peak memory, GiB": 20,
    }


def test_a_page_shows_the_settings_without_a_command_that_may_hold_a_token() -> None:
    given = {"data.cache": "cache", "data.shards": "pipe:curl 'https://example.com/{name}?sig=secret'"}
    runs = [
        RunData(name, Path(), given | {"run.seed": seed}, {}, [], [], []) for seed, name in enumerate("ab")
    ]
    assert run_tables.settings(runs).rows == (("data.cache", "cache", "cache"), ("run.seed", "0", "1"))


def test_a_long_curve_is_drawn_with_few_points() -> None:
    points = np.stack([np.arange(10_000.0), np.sin(np.arange(10_000.0))], axis=1)
    steps, low, mean, high = figures._thinned(points)
    assert len(steps) == figures.MOST_POINTS
    assert (low < mean).all()
    assert (mean < high).all()
    assert mean.mean() == pytest.approx(points[:, 1].mean(), abs=1e-3)
