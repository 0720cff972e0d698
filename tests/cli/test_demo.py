"""The demo's page as browsers and programs see it: the command as a process, queried over HTTP."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import signal
import socket
import sys
import urllib.request
import weakref
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maris_fast.demo.answers import photograph
from maris_fast.errors import InputError
from maris_fast.images import load_image
from tests.cli.demo_process import COMMAND, Running, started
from tests.command_line import maris_fast
from tests.training.processes import ROOT, run

pytestmark = pytest.mark.process

SENTENCES = ("the red circle", "the square on the left")


def test_masks_are_those_of_predict(running: Running, weights: Path, photo: Path, tmp_path: Path) -> None:
    _, files, _ = running.segment(photo, *SENTENCES)
    done = maris_fast("predict", str(photo), *SENTENCES, "--weights", str(weights), "--out", str(tmp_path))
    assert done.exit_code == 0, done.output
    assert len(files) == 2
    for number, file in enumerate(files, start=1):
        assert Path(file).name == f"scene-{number}-mask.png"
        wanted = np.asarray(Image.open(tmp_path / f"scene-{number}-mask.png"))
        np.testing.assert_array_equal(np.asarray(Image.open(file)), wanted)


def test_a_second_sentence_does_not_encode_the_photograph_again(running: Running, tmp_path: Path) -> None:
    photo = tmp_path / "other.png"
    Image.new("RGB", (80, 60), "green").save(photo)
    assert "photograph encoded in" in running.segment(photo, "one")[2]
    assert "had been encoded before" in running.segment(photo, "another")[2]


def test_attention_is_shown_of_a_spot(running: Running, photo: Path) -> None:
    shown = running.attention(photo, "the red circle", 5, 7)
    assert [one["caption"].split(":")[0] for one in shown] == [
        "words that pixel 5,7 attends to",
        "block 1",
        "block 2",
    ]


@pytest.mark.parametrize(
    ("sentences", "message"),
    [((), "no sentence"), (("word",) * 17, "17 sentences; at most 16")],
)
def test_a_wrong_number_of_sentences_is_reported(
    running: Running, photo: Path, sentences: tuple[str, ...], message: str
) -> None:
    with pytest.raises(Exception, match=message):
        running.segment(photo, *sentences)


def test_a_missing_photograph_is_reported(running: Running) -> None:
    with pytest.raises(Exception, match="no photograph; upload one"):
        running.segment(None, "the circle")
    with pytest.raises(Exception, match="no photograph and no sentence; upload or choose"):
        running.segment(None)


def test_a_file_that_is_not_an_image_is_reported_by_its_name(running: Running, tmp_path: Path) -> None:
    (tmp_path / "notes.png").write_text("no pixels")
    with pytest.raises(Exception, match=r"notes\.png") as told:
        running.segment(tmp_path / "notes.png", "the circle")
    assert str(running.scratch) not in str(told.value)


def test_a_drawing_is_refused_when_it_is_uploaded_and_its_frame_is_emptied(
    running: Running, tmp_path: Path
) -> None:
    from maris_fast.demo.page import _require_photograph

    drawing = tmp_path / "drawing.png"
    drawing.write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    with pytest.raises(Exception, match=r"drawing\.png is XML: a drawing \(SVG\)") as told:
        _require_photograph(drawing)
    assert 0 < told.value.duration < 60  # type: ignore[attr-defined]  # gradio.Error: seconds shown
    with urllib.request.urlopen(f"{running.address}/config") as answer:
        page = json.load(answer)
    (photo,) = (one["id"] for one in page["components"] if one["props"].get("label") == "Photograph")
    events = page["dependencies"]
    (upload,) = (one for one in events if [photo, "upload"] in one["targets"])
    (emptied,) = (one for one in events if one["trigger_after"] == upload["id"])
    assert emptied["trigger_only_on_failure"]
    assert emptied["outputs"] == [photo]


@pytest.mark.parametrize("form", ["PPM", "ICO", "TGA", "JPEG2000"])
def test_a_photograph_in_a_format_that_uploads_may_not_have_is_refused(tmp_path: Path, form: str) -> None:
    path = tmp_path / "photo.png"
    Image.new("RGB", (64, 64), "green").save(path, form)
    assert load_image(path).size == (64, 64)
    with pytest.raises(InputError, match=r"^photo\.png .*none of JPEG, PNG, WEBP, GIF, BMP or TIFF"):
        photograph(path)
    path.unlink()
    with pytest.raises(InputError, match=r"^no image photo\.png"):
        photograph(path)


def test_errors_are_shown_below_the_heading_and_captions_whole(running: Running) -> None:
    with urllib.request.urlopen(running.address) as answer:
        served = answer.read().decode()
    for rule in (".toast-wrap { top: auto !important; bottom:", "white-space: normal !important"):
        assert rule in served


def test_the_page_says_that_encoders_are_random_and_loads_from_itself_only(running: Running) -> None:
    with urllib.request.urlopen(running.address) as answer:
        assert "random encoders (sam and text)" in answer.read().decode()
        assert "default-src 'self' " in answer.headers["Content-Security-Policy"]


def test_a_taken_port_is_reported(weights: Path) -> None:
    pytest.importorskip("gradio")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = run(*COMMAND, "demo", weights, "--port", port)
    assert done.returncode == 2
    assert f"no page at 127.0.0.1, port {port}" in done.stderr
    assert len(done.stderr.splitlines()) == 2, "what it loads, and the error"


def test_without_gradio_one_line_says_how_to_install_it(weights: Path) -> None:
    code = "import sys; sys.modules.pop('gradio', None)\n" + (
        "class Absent:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name.split('.')[0] == 'gradio':\n"
        "            raise ModuleNotFoundError('No module named gradio', name='gradio')\n"
        "sys.meta_path.insert(0, Absent())\nfrom maris_fast.cli import app; app()"
    )
    done = run(sys.executable, "-c", code, "demo", weights)
    assert done.returncode == 2
    assert "pip install 'maris-fast[demo]'" in done.stderr
    assert len(done.stderr.splitlines()) == 2, "what it loads, and the error"


def test_importing_the_page_writes_nothing_beside_it(tmp_path: Path) -> None:
    pytest.importorskip("gradio")
    copy = tmp_path / "maris_fast"
    shutil.copytree(ROOT / "maris_fast", copy, ignore=shutil.ignore_patterns("*.pyi", "__pycache__"))
    before = sorted(copy.rglob("*"))
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from maris_fast.demo import server as page; "
    code += "print(page.__file__)"
    done = run(sys.executable, "-B", "-c", code)
    assert Path(done.stdout.strip()) == copy / "demo" / "server.py", done.stderr
    assert sorted(copy.rglob("*")) == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_removes_uploads_and_masks(
    number: signal.Signals, weights: Path, photo: Path, tmp_path: Path
) -> None:
    with started(weights, tmp_path) as demo:
        demo.segment(photo, "the circle")
        assert list(demo.scratch.glob("maris-fast-demo-*/**/*.png"))
        demo.process.send_signal(number)
        said, _ = demo.process.communicate(timeout=20)
        assert said.strip().endswith("ended")
        assert "Traceback" not in said
        assert demo.process.returncode == 0
        assert not list(demo.scratch.glob("maris-fast-demo-*"))


def test_a_request_that_fails_keeps_nothing_of_its_work_in_memory() -> None:
    from maris_fast.demo.page import _Beside

    made: list[weakref.ref[np.ndarray]] = []

    def work() -> None:
        activations = np.zeros(9)
        made.append(weakref.ref(activations))
        raise MemoryError("of the GPU")

    async def ask() -> None:
        with pytest.raises(MemoryError, match="of the GPU"):
            await _Beside()(work)

    gc.collect()
    gc.disable()
    try:
        asyncio.run(ask())
        assert made[0]() is None
    finally:
        gc.enable()
