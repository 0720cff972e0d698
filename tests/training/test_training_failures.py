"""Runs in which one process dies, hangs or fails: real launches, real signals."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from maris_fast.train import checkpoints
from tests.training.processes import Launched, deepspeed, run, tiny_training, torchrun

pytestmark = pytest.mark.process

SILENCE = 6


def training(cache: Path, folder: Path, *more: str) -> tuple[str, ...]:
    """A run long enough to be stopped anywhere, with a checkpoint every other step."""
    often = ("run.evaluate_every=null", "run.checkpoint_every=2", f"engine.heartbeat_seconds={SILENCE}")
    return tiny_training(cache, folder, "schedule.epochs=500", *often, *more)


def lines(text: str, start: str = "error: ") -> list[str]:
    return [line for line in text.splitlines() if line.startswith(start)]


def test_a_rank_killed_at_any_step_is_named_at_once(cache: Path, tmp_path: Path) -> None:
    folder, step = tmp_path / "run", random.randint(3, 20)
    with Launched(*torchrun(), *training(cache, folder), log=tmp_path / "log") as launched:
        launched.reaches(folder, step)
        pid = launched.ranks()[1]
        os.kill(pid, signal.SIGKILL)
        launched.ends(20)
        (message,) = lines(launched.output)
        assert launched.process.returncode != 0
        assert 'main.py", line' not in launched.output, "no traceback: it is not the survivors' fault"
    assert f"rank 1 on {os.uname().nodename} (pid {pid}) is gone, last seen after step" in message
    assert "run.resume=auto" in message
    found = checkpoints.newest(folder)
    assert found is not None
    # A step is recorded before its checkpoint is written, so that of this step may be incomplete.
    assert found[1].step >= step - 2, f"killed at step {step}"


def test_rank_zero_killed_while_it_writes_a_checkpoint_loses_no_good_one(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    arguments = training(cache, folder, "run.checkpoint_every=1")
    with Launched(*torchrun(), *arguments, log=tmp_path / "log") as launched:
        launched.reaches(folder, 3)
        pid = launched.ranks()[0]
        while not any((folder / "checkpoints").glob(".step-*.partial")):
            time.sleep(0.0005)
        os.kill(pid, signal.SIGKILL)
        launched.ends(20)
        (message,) = lines(launched.output)
    assert f"rank 0 on {os.uname().nodename} (pid {pid}) is gone" in message
    found = checkpoints.newest(folder)
    assert found is not None
    assert found[1].step >= 2
    # Resume on another number of ranks, at another stage.
    done = run(
        *(sys.executable, *training(cache, folder, "--resume", "auto", "engine.zero_stage=2")),
        "run.stop_after_steps=2",
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"stopped after step {found[1].step + 2}" in done.stdout


def test_a_hung_rank_is_named_and_killed(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Launched(*deepspeed(), *training(cache, folder), log=tmp_path / "log") as launched:
        launched.reaches(folder, 3)
        pid = launched.ranks()[1]
        os.kill(pid, signal.SIGSTOP)
        # The launcher alone would wait half a minute more for the rank that does not react to its SIGTERM.
        assert launched.ends(SILENCE + 20) > SILENCE / 2
        (message,) = lines(launched.output)
    assert f"rank 1 on {os.uname().nodename} (pid {pid}) has been silent for {SILENCE} s" in message
    assert "engine.heartbeat_seconds" in message


def test_a_hung_rank_zero_is_named_by_the_others(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with Launched(*torchrun(), *training(cache, folder), log=tmp_path / "log") as launched:
        launched.reaches(folder, 3)
        pid = launched.ranks()[0]
        os.kill(pid, signal.SIGSTOP)
        launched.ends(SILENCE + 20)
        (message,) = lines(launched.output)
    assert f"rank 0 on {os.uname().nodename} (pid {pid}) has been silent for {SILENCE} s" in message


@pytest.mark.parametrize(
    ("trouble", "own", "words"),
    [
        (
            "bug",
            "Traceback",
            ["failed after step 3, reading data (", "in bug): ZeroDivisionError: a bug of one rank"],
        ),
        ("input_error", "own error: shard 3", ["failed", "in input_error): shard 3 cannot be read"]),
        (
            "stuck",
            "",
            ["(engine.stall_seconds = 8)", "reading data (", "trouble.py", "in stuck)"],
        ),
    ],
)
def test_a_rank_in_trouble_of_its_own_is_named_by_the_others(
    tmp_path: Path, trouble: str, own: str, words: list[str]
) -> None:
    script = Path(__file__).with_name("trouble.py")
    with Launched(*torchrun(), script, tmp_path / "run", trouble, log=tmp_path / "log") as launched:
        launched.ends(100)
        (message,) = lines(launched.output)
    assert "rank 1 on " in message
    assert all(word in message for word in words), message
    assert own in launched.output


@pytest.mark.parametrize(("launcher", "end"), [(deepspeed, signal.SIGTERM), (torchrun, signal.SIGKILL)])
def test_ranks_whose_launcher_ends_stop_with_a_checkpoint(
    cache: Path, tmp_path: Path, launcher: Callable[[], tuple[str, ...]], end: signal.Signals
) -> None:
    folder = tmp_path / "run"
    arguments = training(cache, folder, "run.checkpoint_every=100000")
    with Launched(*launcher(), *arguments, log=tmp_path / "log") as launched:
        launched.reaches(folder, 3)
        launched.process.send_signal(end)
        launched.ends(30)
        assert "the launcher is gone" in launched.output
        assert "stopped after step" in launched.output
        assert not lines(launched.output)
    assert [path.name for path in (folder / "checkpoints").iterdir()]
