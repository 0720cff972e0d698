"""Every error is reported as one line that states the actual cause."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from maris_fast.train.main import main
from tests.command_line import maris_fast
from tests.faults import NAMELESS, require_nameless_user, small_disk
from tests.training.processes import ROOT, deepspeed, run
from tests.training.tiny_cache import write_tiny_cache, write_untrained_for

QUICKSTART = ROOT / "train" / "configs" / "quickstart.yaml"
LONG = "x" * 300
WAY_OUT = (
    ". Set data.val_split to an existing split; to make a split val of some of the train images, import "
    "the data set with `maris-fast import --hold-out 0.1` and cache it again"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds ``cache``, ``run/best.safetensors`` of an untrained model, ``photo.png`` and ``photos/``."""
    folder = tmp_path_factory.mktemp("one-line")
    cache = write_tiny_cache(folder)
    (folder / "run").mkdir()
    write_untrained_for(cache, folder / "run" / "best.safetensors")
    (folder / "run" / "settings.yaml").write_text(f"data:\n  cache: {folder / 'cache'}\n  val_split: val\n")
    Image.new("RGB", (64, 48), "green").save(folder / "photo.png")
    (folder / "photos").mkdir()
    shutil.copy(folder / "photo.png", folder / "photos")
    return folder


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A folder on a separate disk that is full."""
    with small_disk(tmp_path / "full", "16k") as place:
        with pytest.raises(OSError, match="No space left"):
            (place / "filling").write_bytes(b"0" * 20_000)
        yield place


def last_line(*arguments: object) -> str:
    """The command's error message, which is a single line."""
    done = maris_fast(*(str(one).replace("{long}", LONG) for one in arguments))
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 2
    (line,) = [line for line in done.output.splitlines() if line.startswith("error: ")]
    assert done.output.rstrip().endswith(line)
    return line


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("command", ["predict", "attention", "demo"])
def test_a_gpu_that_is_not_there(folder: Path, command: str) -> None:
    photo, weights = folder / "photo.png", folder / "run" / "best.safetensors"
    asked = (
        ["demo", weights, "--port", 0] if command == "demo" else [command, photo, "dog", "--weights", weights]
    )
    assert last_line(*asked, "--device", "cuda") == (
        "error: device = cuda, but PyTorch sees no CUDA device; set device to auto or cpu"
    )
    assert last_line(*asked, "--device", "gpu").startswith("error: device = gpu, which is not a device; set")


def test_a_full_disk(folder: Path, full: Path) -> None:
    weights, photo = folder / "run" / "best.safetensors", folder / "photo.png"
    what = "cannot be written: No space left on device; make room there or name another place"
    for command in ("predict", "attention"):
        asked = (command, photo, "dog", "--weights", weights)
        assert last_line(*asked, "--out", full) == f"error: {full} {what} with --out"
    many = full / "many"
    asked = ("predict-many", folder / "photos", "dog", "--weights", weights)
    assert last_line(*asked, "--out", many) == f"error: {many} {what} with --out"
    examples = ("examples", weights, folder / "cache", "--device", "cpu")
    assert last_line(*examples, "--out", full) == f"error: {full} {what} with --out"
    page = full / "page.html"
    assert (
        last_line("report", folder / "run", "--no-draw", "--out", page) == f"error: {page} {what} with --out"
    )
    quickstart = full / "quickstart"
    assert last_line("quickstart", "--folder", quickstart) == f"error: {quickstart} {what} with --out"
    scenes = full / "scenes"
    assert last_line("scenes", scenes, "--train-images", 2, "--val-images", 1) == f"error: {scenes} {what}"
    model = full / "model"
    assert last_line("push", folder / "run", "org/name", "--out", model) == f"error: {model} {what}"
    assert {one.name for one in full.iterdir()} - {"many", "quickstart"} == {"filling"}
    assert not [one for one in (full / "many").rglob("*") if one.is_file()]


@pytest.mark.parametrize("below", ["", "new", "new/er"])
@pytest.mark.parametrize(
    "command", ["scenes", "pretrain", "import", "mix", "push", "export", "cache", "predict-many"]
)
def test_an_output_folder_that_is_a_file_or_below_one(
    folder: Path, tmp_path: Path, command: str, below: str
) -> None:
    notes = tmp_path / "notes.txt"
    notes.write_text("kept")
    asked = {
        "import": (folder / "scenes", "scenes", "--split-by", "synthetic"),
        "mix": (folder / "dataset",),
        "push": (folder / "run", "org/name"),
        "export": (folder / "run", "--torch"),
        "cache": (folder / "dataset", "--config", "quickstart"),
        "predict-many": (folder / "photos", "a dog", "--weights", folder / "run"),
    }
    line = last_line(command, *asked.get(command, ()), "--out", notes / below)
    assert line == f"error: {notes} is a file; name a new or an empty folder"
    assert [one.name for one in tmp_path.iterdir()] == ["notes.txt"]
    assert notes.read_text() == "kept"


def test_a_device_as_the_file_to_write_stays_a_device(folder: Path) -> None:
    line = last_line("report", folder / "run", "--no-draw", "--out", "/dev/full")
    assert line.startswith("error: /dev/full cannot be written: No space left on device")
    assert Path("/dev/full").is_char_device()
    null = ["report", str(folder / "run"), "--no-draw", "--out", "/dev/null"]
    assert maris_fast(*null).exit_code == 0
    assert Path("/dev/null").is_char_device()


@pytest.mark.parametrize(
    ("extends", "found"),
    [("", "None"), (" 5", "5"), (" [a.yaml, null]", "['a.yaml', None]"), (" {a: b}", "{'a': 'b'}")],
)
def test_extends_that_names_no_file(tmp_path: Path, extends: str, found: str) -> None:
    config = tmp_path / "own.yaml"
    config.write_text(f"extends:{extends}\n")
    assert last_line("train", "--config", config) == (
        f"error: {config}: extends is {found}; expected a file's name or a list of names, or no such line"
    )


def test_yaml_that_is_not_utf_8(tmp_path: Path) -> None:
    config = tmp_path / "own.yaml"
    config.write_bytes("run:\n  folder: Läufe\n".encode("latin-1"))
    assert "is not YAML: it is not UTF-8 (byte 16); save it as UTF-8" in last_line(
        "train", "--config", config
    )


@pytest.mark.parametrize("split", ["vall", LONG])
def test_a_mistyped_split_is_reported_before_the_launcher_starts(
    folder: Path, split: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("something was started"))
    cache, weights = folder / "cache", folder / "run" / "best.safetensors"
    wanted = f"error: no split '{split}' in the cache {cache}; it has train, val"
    assert last_line("eval", weights, cache, "--split", split) == wanted
    assert last_line("examples", weights, cache, "--split", split, "--device", "cpu") == wanted
    settings = (f"data.cache={cache}", f"run.folder={folder / 'new'}", f"data.val_split={split}")
    assert last_line("train", "--config", QUICKSTART, *settings) == wanted + WAY_OUT
    resumed = ("train", "--config", QUICKSTART, "--resume", "auto", *settings)
    assert last_line(*resumed) == wanted + WAY_OUT
    assert last_line("eval", folder / "none.safetensors", cache).startswith("error: no weights ")


@pytest.mark.process
@pytest.mark.parametrize("command", ["predict", "predict-many", "attention", "eval", "export"])
def test_a_command_says_what_it_does_before_torch_is_imported(
    folder: Path, command: str, tmp_path: Path
) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch is imported')\n")
    run, photo = folder / "run", folder / "photo.png"
    arguments: tuple[object, ...] = (photo, "the circle", "--weights", run)
    if command == "eval":
        arguments = (run, folder / "cache")
    elif command == "export":
        arguments = (run, "--torch")
    elif command == "predict-many":
        arguments = (folder / "photos", *arguments[1:], "--out", tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-m", "maris_fast.cli", command, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    weights = run / "best.safetensors"
    first = {"eval": f"scoring {weights} on val of {folder / 'cache'}"}
    assert done.stderr.splitlines() == [
        first.get(command, f"loading {weights}"),
        "torch is imported",
    ]


@pytest.mark.process
def test_a_mistyped_split_is_reported_before_torch_is_imported(folder: Path) -> None:
    code = (
        "import sys\nfrom maris_fast.cli import app\n"
        "try: app(sys.argv[1:])\nexcept SystemExit: print('torch' in sys.modules)"
    )
    weights = str(folder / "run" / "best.safetensors")
    asked = ["eval", weights, str(folder / "cache"), "--split", "vall"]
    done = subprocess.run([sys.executable, "-c", code, *asked], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


@pytest.mark.process
def test_under_deepspeed_a_mistyped_split_can_be_the_last_line(folder: Path) -> None:
    """DeepSpeed's launcher starts ranks without checking settings, and by default logs each that it ends."""
    settings = (f"data.cache={folder / 'cache'}", f"run.folder={folder / 'new'}", "data.val_split=vall")
    launcher = deepspeed(2, "--log_level", "critical")
    done = run(*launcher, "train/main.py", "--config", QUICKSTART, *settings)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert lines == [f"error: no split 'vall' in the cache {folder / 'cache'}; it has train, val{WAY_OUT}"]
    assert done.stderr.rstrip().endswith(lines[0])


IN_TURN = """
import json, os, sys
from tests.command_line import maris_fast
for file, *arguments in json.load(sys.stdin):
    os.chmod(file, 0)
    done = maris_fast(*arguments)
    os.chmod(file, 0o644)
    print(json.dumps([done.exit_code, done.output]))
"""
"""Runs commands, each without permission to read one file."""


@pytest.mark.process
def test_files_that_this_user_may_not_read(folder: Path, tmp_path: Path) -> None:
    """Such files are reported with the reason, and not as missing or damaged."""
    require_nameless_user()
    cache, dataset, weights = folder / "cache", folder / "dataset", folder / "run" / "best.safetensors"
    photo, lines = folder / "photo.png", folder / "own.jsonl"
    lines.write_text('{"image": "photo.png", "sentence": "dog", "mask": [[0, 0, 9, 0, 9, 9]]}\n')
    (tmp_path / "base.yaml").write_text("run: {}\n")
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\n")
    shard, index = cache / "val-000000.tar", cache / "val-000000.index.npz"
    seen = ("examples", weights, cache, "--device", "cpu", "--out", tmp_path / "seen")
    may_not = "cannot be read: [Errno 13] Permission denied: "
    asked: list[tuple[int, str, tuple[object, ...]]] = [
        (1, f"{shard.name}: {may_not}'{shard}'", (shard, "verify", cache)),
        (1, f"{shard.name}: {may_not}'{index}'", (index, "verify", cache)),
        (2, f"error: shard {shard}, image 000000000003: {may_not}'{shard}'", (shard, *seen)),
        (2, f"error: index {index} {may_not}'{index}'", (index, *seen)),
        (2, f"error: {cache}/manifest.json: Permission denied", (cache / "manifest.json", *seen)),
        (
            2,
            f"error: {lines}: Permission denied",
            (lines, "import", folder, lines.name, "--out", tmp_path / "out"),
        ),
        (
            2,
            f"    own.jsonl:1: {photo} is not a readable image: [Errno 13] Permission denied: '{photo}'",
            (photo, "import", folder, lines.name, "--out", tmp_path / "out"),
        ),
        (
            2,
            f"error: {dataset}/dataset.json: Permission denied",
            (dataset / "dataset.json", "mix", dataset, "--out", tmp_path / "out"),
        ),
        (
            2,
            f"error: {tmp_path}/base.yaml {may_not}'{tmp_path}/base.yaml'",
            (tmp_path / "base.yaml", "train", "--config", tmp_path / "mine.yaml"),
        ),
    ]
    said = subprocess.run(
        [*NAMELESS, sys.executable, "-c", IN_TURN],
        input=json.dumps([[str(word) for word in words] for _, _, words in asked]),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for (status, line, _), told in zip(asked, map(json.loads, said.splitlines()), strict=True):
        assert told[0] == status
        assert line in told[1].splitlines(), told[1]


def test_names_too_long_for_a_disk(folder: Path, tmp_path: Path) -> None:
    scenes = tmp_path / "{long}"
    assert last_line("scenes", scenes).endswith("cannot be written: File name too long; name another place")
    assert "File name too long" in last_line("import", tmp_path, "{long}", "--out", tmp_path / "out")


def test_the_report_of_random_encoders_says_so(folder: Path, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    report = ["report", str(folder / "run"), "--no-draw", "--out", str(page)]
    assert maris_fast(*report).exit_code == 0
    told = "Note: these weights were trained on features of random encoders (sam and text)."
    assert told in page.read_text()


def test_another_system_than_linux(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    result = maris_fast("info")
    assert (result.exit_code, main(["--config", "tiny", "--dry-run"])) == (2, 2)
    told = "maris-fast runs on Linux, and this is darwin; use a Linux machine, a container or WSL 2"
    for said in (result.stderr, capfd.readouterr().err):
        assert " ".join(said.split()) == f"error: {told}"
