"""Failed outputs other than weights and checkpoints end no run; for these two, errors name a full disk."""

from __future__ import annotations

import errno
import io
import json
import os
import pty
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from safetensors import safe_open

from maris_fast.ablation.record import Record
from maris_fast.ablation.runner import Command, Runner
from maris_fast.cli import app
from maris_fast.errors import InputError
from maris_fast.system.launchers import free_port
from maris_fast.system.standard_streams import Streams, sturdy
from maris_fast.train.by_products import RecordFile
from maris_fast.train.run_logger import RankZeroLogger
from tests.faults import Disk, small_disk
from tests.training.board_files import curve
from tests.training.processes import ROOT, records, run, tiny_training
from tests.training.toy_run import toy_settings

FULL = "[Errno 28] No space left on device"
GONE = "[Errno 32] Broken pipe"
EVERY = list(range(1, 10))


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What toy runs leave on a disk that fills at a certain moment, by scenario."""
    folder = tmp_path_factory.mktemp("full")
    with small_disk(folder / "disk", "4m") as disk:
        done = run(
            *(sys.executable, ROOT / "tests" / "training" / "full_disk.py", disk, folder / "left.json"),
            changed={"OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr[-4000:]
        yield json.loads((folder / "left.json").read_text())


@pytest.mark.process
def test_a_folder_on_a_full_disk_is_reported_before_anything_is_trained(left: dict[str, Any]) -> None:
    no_lock, no_settings = left["full_from_the_start"]
    for said in (no_lock, no_settings):
        assert re.fullmatch(
            rf"run\.folder \S+ cannot be written: {re.escape(FULL)}.*; set it to another", said
        )


@pytest.mark.process
def test_records_that_a_full_disk_does_not_take_are_caught_up(left: dict[str, Any]) -> None:
    found = left["full_for_records"]
    assert found["end"] is True
    assert found["steps"] == found["curve"] == list(range(1, 19))
    assert sorted(found["told"]) == [
        f"TensorBoard's curves cannot be written (OSError: {FULL}); the training goes on",
        f"metrics.jsonl cannot be written (OSError: {FULL}); the training goes on",
    ]


@pytest.mark.process
def test_pictures_that_a_full_disk_does_not_take_are_counted(left: dict[str, Any]) -> None:
    found = left["full_for_pictures"]
    assert found["end"] is True
    assert found["steps"] == found["curve"] == EVERY
    pictures = [name for name in found["files"] if name.startswith("pictures/")]
    assert pictures == ["pictures/step-000006.png", "pictures/step-000009.png"]
    assert found["pictured"] == [3, 6, 9]  # TensorBoard's are written later
    assert found["told"] == [
        f"pictures cannot be written (OSError: {FULL}); the training goes on",
        f"TensorBoard's curves cannot be written (OSError: {FULL}); the training goes on",
        "pictures: pictures that could not be written: 1",
    ]


@pytest.mark.process
def test_a_checkpoint_that_does_not_fit_ends_the_run_and_loses_no_other(left: dict[str, Any]) -> None:
    first, second = left["full_for_a_checkpoint"]
    assert "step-00000006 could not be written: " in first["end"]
    assert "No space left on device" in first["end"]
    assert "Make room on that disk" in first["end"]
    kept = [name for name in first["files"] if name.startswith("checkpoints/")]
    assert kept == ["checkpoints/step-00000003/state.json", "checkpoints/step-00000003/state.safetensors"]
    assert second["end"] is True
    assert second["steps"] == second["curve"] == EVERY


@pytest.mark.process
def test_weights_that_do_not_fit_end_the_run_and_the_former_best_stays(left: dict[str, Any]) -> None:
    found = left["full_for_the_best"]
    assert "best.safetensors could not be written: " in found["end"]
    assert "No space left on device" in found["end"]
    assert "make room on that disk" in found["end"]
    assert found["kept"]
    assert not [name for name in found["files"] if "partial" in name]


def command(cache: Path, folder: Path, *more: str) -> list[str]:
    return [sys.executable, *tiny_training(cache, folder, "schedule.epochs=1", *more)]


@pytest.mark.process
def test_a_checkpoint_on_a_full_disk_is_one_line_of_a_real_run(cache: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "400k") as disk:
        done = run(*command(cache, disk / "run", "run.pictures=0"))
        assert done.returncode == 2
        (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        assert "checkpoint" in error
        assert "No space left on device" in error
        assert "Make room on that disk" in error
        assert "Traceback" not in done.stderr
        assert list((disk / "run" / "checkpoints").iterdir()) == []
        with safe_open(disk / "run" / "best.safetensors", framework="pt") as best:
            assert best.keys()


@pytest.fixture(scope="module")
def unread(cache: Path) -> tuple[Path, str]:
    """The folder of a run whose output pipe is closed after its first record, and what was read before."""
    folder = cache.parent / "unread"
    with subprocess.Popen(
        command(cache, folder), stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout is not None
        read = []
        while not (read and read[-1].startswith("step 1/4")):
            read.append(process.stdout.readline().decode())
            assert read[-1], read
        process.stdout.close()  # as `2>&1 | head` does
        assert process.wait(240) == 0
    return folder, "".join(read)


@pytest.mark.process
def test_a_closed_output_ends_no_run(unread: tuple[Path, str]) -> None:
    folder, _ = unread
    told = records(folder)
    assert [one["step"] for one in told if one["kind"] == "train"] == [1, 2, 3, 4]
    warnings = " ".join(one["text"] for one in told if one["kind"] == "warning")
    assert f"standard output cannot be written ({GONE})" in warnings
    assert f"standard error cannot be written ({GONE})" in warnings
    # steps 2 to 4, the evaluation, the closing line; the report's line comes after the count
    assert "standard output: lines that could not be written: 5" in warnings
    assert (folder / "report.html").is_file()


@pytest.mark.process
@pytest.mark.parametrize(("target", "status"), [("/dev/full", 2), ("closed", 0)])
def test_scores_that_cannot_be_shown_are_written_all_the_same(
    cache: Path, unread: tuple[Path, str], tmp_path: Path, target: str, status: int
) -> None:
    words = (
        *("-m", "maris_fast.evaluation", unread[0] / "best.safetensors", cache, "--device", "cpu"),
        *("--bootstrap", "0", "--out", tmp_path / "scores.json"),
    )
    with closed_pipe() if target == "closed" else Path(target).open("w") as out:
        done = subprocess.run(
            [sys.executable, *map(str, words)],
            stdout=out,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            check=False,
        )
    assert done.returncode == status, done.stderr[-4000:]
    assert "Traceback" not in done.stderr
    assert ("did not take" in done.stderr) == (status == 2)
    assert json.loads((tmp_path / "scores.json").read_text())["as written"]["expressions"] == 7


def test_commands_write_all_their_files_with_closed_output(
    cache: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scenes, made = tmp_path / "scenes", tmp_path / "imported"
    commands = (
        ["scenes", str(scenes), "--train-images", "3", "--val-images", "2"],
        ["import", str(scenes), "scenes", "--split-by", "synthetic", "--out", str(made)],
        ["verify", str(cache)],
    )
    for words in commands:
        with closed_pipe() as pipe, replaced_output(pipe):
            app(words, standalone_mode=False)
    assert len((made / "train.jsonl").read_text().splitlines()) == 3
    assert len((made / "val.jsonl").read_text().splitlines()) == 2
    told = [line for line in capfd.readouterr().err.splitlines() if "WARNING" in line]
    assert told == [f"WARNING: standard output cannot be written ({GONE}); continuing without it"] * 3


@pytest.mark.process
def test_every_by_product_may_fail_at_once(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "tensorboard.py").write_text("raise ImportError('numpy.core.multiarray failed to import')\n")
    (tmp_path / "git").write_text("#!/bin/sh\nsleep 300\n")
    (tmp_path / "git").chmod(0o755)
    (tmp_path / "jinja2.py").write_text("raise ImportError('no jinja2 here')\n")
    path = f"{tmp_path}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            command(cache, tmp_path / "run"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=240,
            check=False,
            env={**os.environ, "PATH": path, "PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}"},
        )
    assert done.returncode == 0, done.stderr[-4000:]
    warnings = [line for line in done.stderr.splitlines() if "WARNING" in line]
    wanted = (
        f"standard output cannot be written ({FULL})",
        "the commit is unknown: ",
        "TensorBoard's curves cannot be written (ImportError: numpy.core.multiarray failed to import)",
        "standard output: lines that could not be written: 10",
        "report.html cannot be written (ImportError: no jinja2 here); again: maris-fast report",
    )
    assert [want for want, line in zip(wanted, warnings, strict=True) if want not in line] == [], warnings
    assert "Traceback" not in done.stderr
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["commit"] is None
    assert [one["step"] for one in records(tmp_path / "run", "train")] == [1, 2, 3, 4]


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb, which the project does not depend on")
def test_wandb_at_a_closed_port_ends_no_run(cache: Path, tmp_path: Path) -> None:
    here = {
        "WANDB_BASE_URL": f"http://127.0.0.1:{free_port()}",
        "WANDB_API_KEY": "0" * 40,
        "WANDB_INIT_TIMEOUT": "10",
        "WANDB_DIR": str(tmp_path),
    }
    done = subprocess.run(
        [*command(cache, tmp_path / "run"), "run.wandb_project=maris"],
        env={**os.environ, **here},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (warning,) = (line for line in done.stderr.splitlines() if "WARNING" in line)
    assert warning.startswith("WARNING: W&B cannot be written (CommError: ")
    assert "it is off from here on; training continues" in done.stderr
    assert [one["step"] for one in records(tmp_path / "run", "train")] == [1, 2, 3, 4]


def test_an_ablations_record_waits_for_room(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with small_disk(tmp_path / "disk", "64k") as disk:
        filler = disk / "filler"
        runs: list[Any] = [
            SimpleNamespace(name=name, variant=SimpleNamespace(name=name), seed=0, shell=shell)
            for name, shell in (("fills", f"cat /dev/zero > {filler}"), ("frees", f"rm {filler}"))
        ]
        told: list[str] = []
        progress: Any = SimpleNamespace(at=lambda *_: None, say=told.append)
        runner = Runner(
            disk,
            Record({}, {}),
            lambda run, place: [Command(["sh", "-c", run.shell], {})],  # type: ignore[attr-defined]
            lambda run: ({"scores": {"oIoU": 0.5}, "train_seconds": 1.0}, {}),
            progress,
            jobs=1,
        )
        runner.work(runs)
        found = Record.read(disk).runs
    assert {name: run["state"] for name, run in found.items()} == {"fills": "failed", "frees": "done"}
    (warning,) = (record.getMessage() for record in caplog.records)
    assert warning.startswith(f"ablation.json cannot be written (OSError: {FULL}")
    assert len(told) == 2


def test_a_record_file_that_was_full_is_whole_and_in_order(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "64k") as folder:
        disk = Disk(folder)
        lines = RecordFile(folder / "metrics.jsonl")
        sent = [f"{number:04d}{'.' * 3000}\n".encode() for number in range(6)]
        lines.append(sent[0])
        disk.fill()  # the last page of the file has room for a part of the next record
        for record in sent[1:5]:
            with pytest.raises(OSError, match="No space left"):
                lines.append(record)
        assert len(lines.waiting) == 4
        assert (folder / "metrics.jsonl").read_bytes().startswith(sent[0])
        disk.free()
        lines.append(sent[5])
        lines.close()
        assert (folder / "metrics.jsonl").read_bytes() == b"".join(sent)
        assert lines.waiting == []


def write_steps(folder: Path, first: int, last: int) -> None:
    losses = ("loss", "focal", "dice", "oIoU", "lr", "tau", "gradient_norm")
    rates = ("expressions_per_s", "images_per_s", "data_wait_share", "gb_per_s", "memory_mb")
    values = dict.fromkeys((*losses, *rates), 0.5)
    with RankZeroLogger(toy_settings(folder), step=first - 1, total_steps=9) as logger:
        for step in range(first, last + 1):
            logger.record("train", {"step": step, **values})
            logger.advance(step)


def test_a_resumed_log_has_each_step_once(tmp_path: Path) -> None:
    write_steps(tmp_path, 1, 6)
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"kind": "train", "st\xff')  # truncated by a crash
    write_steps(tmp_path, 4, 9)
    assert [one["step"] for one in records(tmp_path, "train")] == EVERY
    assert curve(tmp_path / "tensorboard", "train/loss") == EVERY


def test_without_a_terminal_a_step_is_printed_after_a_quiet_minute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with RankZeroLogger(toy_settings(tmp_path), step=0, total_steps=9) as logger:
        logger.advance(1)
        before = time.monotonic()
        monkeypatch.setattr(time, "monotonic", lambda: before + 61)
        logger.advance(2)
        logger.advance(3)
    assert capfd.readouterr().out == "at step 2 of 9\n"


def test_a_terminal_that_hangs_up_ends_no_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    shown, terminal = pty.openpty()
    with open(terminal, "w") as output, standard_output(output) as streams:
        assert sys.stdout.isatty()  # so that there is a progress bar
        os.close(shown)
        write_steps(tmp_path, 1, 9)
        assert isinstance(streams.out.reason, OSError)
        assert streams.out.reason.errno == errno.EIO
    assert [one["step"] for one in records(tmp_path, "train")] == EVERY
    assert capfd.readouterr().err.count("standard output cannot be written") == 1


@contextmanager
def replaced_output(target: io.TextIOBase) -> Iterator[None]:
    before, sys.stdout = sys.stdout, target  # type: ignore[assignment]
    try:
        yield
    finally:
        sys.stdout = before


@contextmanager
def standard_output(target: io.TextIOBase) -> Iterator[Streams]:
    with replaced_output(target), sturdy() as streams:
        yield streams


def closed_pipe() -> io.TextIOWrapper:
    read, write = os.pipe()
    os.close(read)
    return open(write, "w")


def test_a_closed_pipe_is_reported_once_and_its_lines_are_counted(capfd: pytest.CaptureFixture[str]) -> None:
    pipe = closed_pipe()
    with standard_output(pipe) as streams:
        for number in range(5):
            print(number, flush=number % 2 == 1)  # some are lost with the buffer
        streams.out.flush()
        assert streams.out.lost == 5
        streams.require_written()  # a reader that closes its pipe is no error
    pipe.close()  # its buffer is empty, so that nothing fails
    told = capfd.readouterr().err
    assert told == f"WARNING: standard output cannot be written ({GONE}); continuing without it\n"


def test_a_full_disk_under_a_commands_output_is_an_error(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with open("/dev/full", "w") as full, standard_output(full) as streams:
        print("a table")
        with pytest.raises(InputError, match="did not take 1 lines"):
            streams.require_written()
    assert FULL in capfd.readouterr().err


def test_standard_error_that_is_gone_speaks_through_standard_output(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", closed_pipe())
    with sturdy():
        print("a warning", file=sys.stderr)
    assert capfd.readouterr().out == (
        f"WARNING: standard error cannot be written ({GONE}); continuing without it\na warning\n"
    )


@pytest.mark.parametrize(
    ("encoding", "text", "written"),
    [("ascii", "naïve 自行车", r"na\xefve \u81ea\u884c\u8f66"), ("utf-8", "half \ud83d", r"half \ud83d")],
)
def test_text_that_a_terminal_cannot_show_ends_nothing(encoding: str, text: str, written: str) -> None:
    raw = io.BytesIO()
    with standard_output(io.TextIOWrapper(raw, encoding=encoding)):
        print(text)
    assert raw.getvalue().decode() == f"{written}\n"


def test_no_standard_output_at_all_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # what Python has under `>&-`
    with sturdy():
        sys.stdout.write("nobody hears\n")
        assert not sys.stdout.isatty()
