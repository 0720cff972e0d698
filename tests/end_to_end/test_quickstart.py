"""The quickstart as a newcomer runs it, on few scenes and for few steps: every process and file is real."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytestmark = pytest.mark.process

SCORES = {"oIoU", "mIoU", "Pr@50", "Pr@60", "Pr@70", "Pr@80", "Pr@90"}


@pytest.fixture
def the_launchers_port_is_taken() -> Iterator[None]:
    """Occupy the launcher's default port, as another run on this machine would."""
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # already taken by another run
            other.bind(("127.0.0.1", 29500))
            other.listen()
        yield


STEPS = 12
ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.usefixtures("the_launchers_port_is_taken")
def test_quickstart_goes_from_nothing_to_scores_pictures_and_python_with_a_stop_on_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "runs" / "quickstart"
    command = [sys.executable, "-u", "-m", "maris_fast.cli", "quickstart", "--folder", str(folder)]
    command += [
        "--train-images",
        "12",
        "--val-images",
        "12",
        f"schedule.max_steps={STEPS}",
        "run.log_every=1",
    ]
    stopped_by_ctrl_c(command, after=f"step  2/{STEPS}")
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    for title in ("1. render scenes", "2. import them like RefCOCO", "3. cache the frozen"):
        (line,) = [line for line in done.stdout.splitlines() if line.startswith(title)]
        assert line.endswith(": done before")
    assert "\n4. train on 2 DeepSpeed ranks\n" in done.stdout
    assert "oIoU on held-out scenes" in done.stdout
    assert "with expressions exchanged" in done.stdout
    for kind in ("colour", "shape", "size", "position", "relation"):
        assert kind in done.stdout
    scores = json.loads((folder / "scores.json").read_text())
    for condition in ("as written", "exchanged"):
        assert scores[condition].keys() >= SCORES
    # An image whose sentences all refer to one object has none to exchange.
    assert scores["as written"]["expressions"] >= scores["exchanged"]["expressions"] > 0
    metrics = (folder / "training" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line) for line in metrics]
    assert [row["step"] for row in steps if row["kind"] == "train"] == [*range(1, STEPS + 1)]
    assert Image.open(folder / "predictions.png").width > 500

    evaluate = [sys.executable, "-m", "maris_fast.cli", "eval", str(folder / "training" / "best.safetensors")]
    evaluate += [str(folder / "cache"), "--split"]
    alone = tmp_path / "alone.json"
    done = subprocess.run(
        [*evaluate, "val", "--out", str(alone)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    on_two_ranks = scores["as written"]
    on_one = json.loads(alone.read_text())["as written"]
    assert on_one["expressions"] == on_two_ranks["expressions"]
    assert abs(on_one["oIoU"] - on_two_ranks["oIoU"]) < 1e-3
    wrong = subprocess.run([*evaluate, "test"], capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2
    assert "error: no split 'test'" in wrong.stdout + wrong.stderr

    monkeypatch.chdir(tmp_path)
    scene = sorted((folder / "scenes" / "images" / "train2014").glob("*.jpg"))[0]
    Image.open(scene).resize((200, 120)).save("photo.jpg")
    (python,) = re.findall(r"\n```python\n(.*?)\n```\n", (ROOT / "README.md").read_text(), re.DOTALL)
    readme: dict[str, Any] = {}
    exec(python, readme)
    assert (readme["mask"].dtype, readme["mask"].shape) == (np.bool_, (120, 200))
    notebook: dict[str, Any] = {}
    for cell in json.loads((ROOT / "docs" / "predict.ipynb").read_text())["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), notebook)
    assert notebook["masks"].shape == (3, *notebook["mask"].shape)
    np.testing.assert_array_equal(notebook["probabilities"] > 0.5, notebook["masks"])
    assert notebook["scores"]["oIoU"] == on_one["oIoU"]

    again = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert again.returncode == 2
    assert "has a finished quickstart" in again.stderr
    other = subprocess.run([*command, "run.seed=1"], capture_output=True, text=True, timeout=60)
    assert other.returncode == 2
    assert "has a quickstart of other settings" in other.stderr


def stopped_by_ctrl_c(command: list[str], after: str) -> None:
    """Run the command, interrupt it after the line ``after`` as a terminal does, and check its message."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        assert process.stdout is not None
        said = []
        for line in process.stdout:
            said.append(line)
            if after in line:
                os.killpg(process.pid, signal.SIGINT)
                break
        said += process.stdout.readlines()
        assert process.wait(timeout=120) == 130, "".join(said)
        assert "stopped; the same command resumes\n" in said, "".join(said)
