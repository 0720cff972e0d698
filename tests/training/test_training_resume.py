"""What `run.resume` does with a run folder's contents: resume, start anew, or refuse and touch nothing."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from maris_fast.config import RunSettings
from maris_fast.errors import CheckpointError, ConfigError, MarisError
from maris_fast.train import checkpoints, resuming, run_files
from maris_fast.train.checkpoints import RunState
from tests.faults import NAMELESS, require_nameless_user
from tests.folders import files_below
from tests.training.processes import NOTHING_TO_SEE, run, tiny_training
from tests.training.tiny_cache import write_tiny_cache

STATE, TENSORS = "state.json", "state.safetensors"


def settings(folder: Path, resume: str = "auto") -> RunSettings:
    return RunSettings.model_validate({"folder": folder, "resume": resume})


def save(folder: Path, *steps: int) -> None:
    for step in steps:
        state = RunState(
            step=step, epoch=0, step_in_epoch=step, seed=0, evaluated=None, best=None, data="", settings={}
        )
        checkpoints.save(folder, state, {"model.a": torch.full((3,), float(step))}, keep=2)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run after step 8, with checkpoints of steps 4 and 8."""
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "settings.yaml").write_text("run: {}\n")
    (folder / "metrics.jsonl").write_text("".join(f'{{"kind": "train", "step": {i}}}\n' for i in range(1, 9)))
    (folder / "best.safetensors").write_bytes(b"the best")
    (folder / "last.safetensors").write_bytes(b"the last")
    save(folder, 4, 8)
    return folder


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def other_version(path: Path) -> None:
    path.write_text(path.read_text().replace('"format_version": 1', '"format_version": 7'))


def new_field(path: Path) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), "elapsed": 3}))


def no_file(path: Path) -> None:
    path.unlink()
    path.mkdir()


Damage = dict[str, Callable[[Path], None]]
CASES: dict[str, tuple[Damage, list[str]]] = {
    "both cut": (
        {f"step-00000004/{TENSORS}": cut, f"step-00000008/{TENSORS}": cut},
        [
            f"step-00000008 has a {TENSORS} that is truncated",
            f"step-00000004 has a {TENSORS} that is truncated",
        ],
    ),
    "one cut, one without its state": (
        {f"step-00000004/{STATE}": Path.unlink, f"step-00000008/{STATE}": cut},
        [f"step-00000008 has a {STATE} that is truncated", f"step-00000004 has no {STATE}"],
    ),
    "another version": (
        {f"step-00000008/{STATE}": other_version},
        ["step-00000008 has format version 7, this program reads 1", "step-00000004 is whole"],
    ),
    "a field of another version": (
        {f"step-00000008/{STATE}": new_field},
        [f"step-00000008 has a {STATE} of another version", "elapsed"],
    ),
    "a state that is no file": (
        {f"step-00000008/{STATE}": no_file},
        [f"step-00000008 has a {STATE} that cannot be read", "step-00000004 is whole"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_checkpoints_that_cannot_be_used_are_listed_one_by_one(folder: Path, case: str) -> None:
    damage, words = CASES[case]
    for name, spoil in damage.items():
        spoil(folder / "checkpoints" / name)
    before = files_below(folder)
    with pytest.raises(CheckpointError) as raised:
        resuming.find(settings(folder))
    assert all(word in str(raised.value) for word in words), raised.value
    assert "run.resume=restart" in str(raised.value)
    assert files_below(folder) == before


@pytest.mark.parametrize(
    ("gone", "words"),
    [
        (["checkpoints"], "it has no folder checkpoints"),
        (["checkpoints", "last.safetensors", "latest-checkpoint"], "it has no folder checkpoints"),
        (["checkpoints", "last.safetensors", "best.safetensors"], "it has no folder checkpoints"),
        (["checkpoints", "settings.yaml", "metrics.jsonl"], "it has no folder checkpoints"),
        (["checkpoints/step-00000004", "checkpoints/step-00000008"], "its folder checkpoints is empty"),
    ],
)
def test_a_run_whose_checkpoints_were_deleted_is_refused(folder: Path, gone: list[str], words: str) -> None:
    for name in gone:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = files_below(folder)
    with pytest.raises(CheckpointError, match=words):
        resuming.find(settings(folder))
    assert files_below(folder) == before


@pytest.mark.process
def test_what_may_not_be_read_is_neither_damaged_nor_missing(folder: Path) -> None:
    require_nameless_user()
    state, weights = folder / "checkpoints" / "step-00000008" / STATE, folder / "best.safetensors"
    script = """
import os, sys
from pathlib import Path
from maris_fast.config import RunSettings
from maris_fast.errors import MarisError
from maris_fast.train import resuming
from maris_fast.weights import load_weights
folder = Path(sys.argv[1])
for read in (
    lambda: resuming.find(RunSettings(folder=folder, resume="auto")),
    lambda: load_weights(folder / "best.safetensors"),
):
    try:
        read()
    except MarisError as error:
        print(error)
os.chmod(folder, 0)
try:
    resuming.find(RunSettings(folder=folder, resume="auto"))
except MarisError as error:
    print(error)
os.chmod(folder, 0o755)
"""
    for path in (state, weights):
        path.chmod(0)
    done = run(*NAMELESS, sys.executable, "-c", script, folder)  # root itself may read everything
    for path in (state, weights):
        path.chmod(0o644)
    found, loaded, closed = done.stdout.splitlines()
    assert f"step-00000008 has a {STATE} that this user has no right to read" in found
    assert "step-00000004 is whole" in found
    assert "damaged" not in found
    assert closed.startswith(f"run.folder {folder} cannot be read: [Errno 13] Permission denied: ")
    assert loaded == f"weights {weights} cannot be read: [Errno 13] Permission denied: '{weights}'"


def test_a_run_resumes_from_an_older_checkpoint_if_the_newest_is_damaged(folder: Path) -> None:
    cut(folder / "checkpoints" / "step-00000008" / TENSORS)
    found = resuming.find(settings(folder))
    assert found is not None
    assert (found[0].name, found[1].step) == ("step-00000004", 4)


def test_copies_of_checkpoints_are_neither_taken_nor_deleted(folder: Path) -> None:
    names = ("step-00000004-good", "step-00000008.bak", "step-8", "step-0000000099", "step-00000009 ")
    kept = folder / "checkpoints"
    for name in names:
        shutil.copytree(kept / "step-00000008", kept / name)
    found = resuming.find(settings(folder))
    assert found is not None
    assert found[0].name == "step-00000008"
    save(folder, 12, 16)
    assert sorted(path.name for path in kept.iterdir()) == sorted((*names, "step-00000012", "step-00000016"))
    for step in (12, 16):
        shutil.rmtree(kept / f"step-{step:08d}")
    with pytest.raises(CheckpointError, match=r"a checkpoint's name such as step-00000001: .*step-8"):
        resuming.find(settings(folder))


def test_the_step_counts_not_the_order_of_the_alphabet(folder: Path) -> None:
    save(folder, 99999999, 123456789)
    found = resuming.find(settings(folder))
    assert found is not None
    assert found[1].step == 123456789


def test_a_checkpoint_that_cannot_be_read_is_not_written_over(folder: Path) -> None:
    other_version(folder / "checkpoints" / "step-00000008" / STATE)
    before = files_below(folder)
    with pytest.raises(CheckpointError, match=r"step-00000008 is not written again: .* format version 7"):
        save(folder, 8)
    assert files_below(folder) == before


def test_a_checkpoint_counts_though_tidying_up_behind_it_fails(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "latest-checkpoint").unlink()
    (folder / "latest-checkpoint" / "in the way").mkdir(parents=True)
    save(folder, 12)
    found = resuming.find(settings(folder))
    assert found is not None
    assert found[1].step == 12
    assert "step-00000012 is written; cleaning up after it failed" in caplog.text


def test_what_a_crash_left_half_written_goes_with_the_next_checkpoint(folder: Path) -> None:
    kept = folder / "checkpoints"
    for name in (".step-00000010.partial", ".step-00000002.removed"):
        shutil.copytree(kept / "step-00000008", kept / name)
    save(folder, 12)
    assert sorted(path.name for path in kept.iterdir()) == ["step-00000008", "step-00000012"]


def test_a_run_stopped_before_its_first_checkpoint_starts_again_and_loses_nothing(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("best.safetensors", "last.safetensors", "latest-checkpoint"):
        (folder / name).unlink()
    shutil.rmtree(folder / "checkpoints")
    (folder / ".lock").touch()
    (folder / "notes.txt").write_text("mine")
    before = files_below(folder)
    assert resuming.find(settings(folder)) is None
    assert files_below(folder) == before
    run_files.set_aside(folder)
    assert files_below(folder) == {
        **{name: before.pop(name) for name in (".lock", "notes.txt")},
        **{f"former-1/{name}": value for name, value in before.items()},
    }
    assert "starts from the beginning" in caplog.text
    assert "former-1" in caplog.text


def test_a_folder_that_was_only_moved_aside_is_a_new_one(folder: Path) -> None:
    before = files_below(folder)
    assert resuming.find(settings(folder, "restart")) is None
    assert files_below(folder) == before
    run_files.set_aside(folder)
    run_files.set_aside(folder)  # nothing is left to move
    assert files_below(folder) == {f"former-1/{name}": value for name, value in before.items()}
    for resume in ("never", "auto", "restart"):
        assert resuming.find(settings(folder, resume)) is None


def test_a_folder_that_holds_no_run_is_never_moved(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    for resume in ("auto", "restart"):
        with pytest.raises(ConfigError, match="holds no run"):
            resuming.find(settings(tmp_path, resume))


def test_a_run_folder_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").touch()
    for resume in ("never", "auto", "restart"):
        with pytest.raises(MarisError, match="run"):
            resuming.find(settings(tmp_path / "run", resume))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``run``, finished after four steps, and its ``cache``."""
    folder = tmp_path_factory.mktemp("resume")
    write_tiny_cache(folder)
    done = training(folder, folder / "run")
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


def training(trained: Path, folder: Path, *more: str):  # type: ignore[no-untyped-def]
    return run(
        sys.executable,
        *tiny_training(trained / "cache", folder, "schedule.epochs=1", *NOTHING_TO_SEE, *more),
    )


@pytest.mark.process
def test_a_real_run_without_its_checkpoints_is_refused_and_untouched(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    shutil.rmtree(folder / "checkpoints")
    before = files_below(folder)
    done = training(trained, folder, "--resume", "auto")
    assert done.returncode == 2
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "it has no folder checkpoints" in error
    assert files_below(folder) == before


@pytest.mark.process
def test_a_restart_moves_all_of_a_real_run_aside(trained: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(trained / "run", tmp_path / "run"))
    names = set(os.listdir(folder))
    assert not {"report.html", "pictures"} & names  # NOTHING_TO_SEE
    before = files_below(folder)
    done = training(trained, folder, "--resume", "restart", "run.seed=1")
    assert done.returncode == 0, done.stderr[-4000:]
    assert "now in" in done.stderr
    assert "finished 4 steps" in done.stdout
    assert files_below(folder / "former-1") == before
    assert set(os.listdir(folder)) == {*names, "former-1"}
    assert (folder / "best.safetensors").read_bytes() != before["best.safetensors"]
