"""A job that ends early in any way keeps its work, and a folder has one run at a time: real launches."""

from __future__ import annotations

import os
import pty
import re
import signal
import stat
import sys
import time
from pathlib import Path

import pytest

from maris_fast.system import end_signals
from maris_fast.system.locks import lock_in, owned_folder
from maris_fast.train import checkpoints
from tests.training.processes import MAIN, ROOT, Launched, deepspeed, records, run, tiny_training, torchrun

pytestmark = pytest.mark.process

RECIPE = re.compile(r"```\n(#!/bin/bash\n.*?)```", re.DOTALL)


def settings(cache: Path, folder: Path, *more: str) -> tuple[str, ...]:
    """A run long enough to be stopped anywhere, which writes no checkpoint without a signal."""
    _, *words = tiny_training(cache, folder, "schedule.epochs=5000", "run.evaluate_every=null")
    return (*words, "run.checkpoint_every=100000", *more)


def stopped_after(launched: Launched, folder: Path) -> int:
    """The step after which the run says it stopped; checks its checkpoint and that the lock is released."""
    (step,) = re.findall(r"^stopped after step (\d+) of", launched.output, re.MULTILINE) or ["0"]
    assert (folder / checkpoints.FOLDER / f"step-{int(step):08d}").is_dir(), launched.output[-4000:]
    assert [record["step"] for record in records(folder, "train")] == list(range(1, int(step) + 1))
    assert not lock_in(folder).exists()
    return int(step)


@pytest.fixture(scope="module")
def hung_up(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, str]:
    """Two DeepSpeed ranks, another job in their folder, SIGHUP to all: folder, step, owner pid and errors."""
    folder = tmp_path_factory.mktemp("hung up") / "run"
    launch = (*deepspeed(), MAIN)
    with Launched(*launch, *settings(cache, folder), log=folder.parent / "log") as launched:
        launched.reaches(folder, 3)
        other = run(*torchrun(), MAIN, *settings(cache, folder, "--resume", "auto", "run.stop_after_steps=1"))
        assert other.returncode != 0
        owner = launched.ranks()[0]
        before = records(folder, "train")[-1]["step"]
        launched.reaches(folder, before + 1)
        os.killpg(launched.process.pid, signal.SIGHUP)  # as closing the terminal does
        launched.ends(60)
        step = stopped_after(launched, folder)
        assert step > before
    return folder, step, f"{owner}\n{other.stderr}"


def test_two_jobs_in_one_folder_the_second_is_refused_in_one_line(hung_up: tuple[Path, int, str]) -> None:
    folder, _, told = hung_up
    owner, _, said = told.partition("\n")
    (line,) = (line for line in said.splitlines() if line.startswith("error"))
    assert f"run.folder {folder} is in use by process {owner} on {os.uname().nodename} (since " in line
    assert "set run.folder to a new one" in line
    assert f"remove {folder}/.owner.json" in line
    assert 'main.py", line' not in said


def test_after_a_hangup_the_run_resumes_through_a_restart_of_torchrun_to_a_warning(
    cache: Path, hung_up: tuple[Path, int, str]
) -> None:
    folder, step, _ = hung_up
    handled = ("--signals-to-handle", "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1")
    again = settings(cache, folder, "--resume", "auto", "run.checkpoint_every=2")
    launch = (*torchrun(2, "--max-restarts", "1", *handled), MAIN, *again)
    with Launched(*launch, log=folder.parent / "again") as launched:
        launched.reaches(folder, step + 5)
        killed = launched.ranks()[1]
        os.kill(killed, signal.SIGKILL)
        reached = records(folder, "train")[-1]["step"]
        launched.reaches(folder, reached + 30)
        assert launched.ranks()[1] != killed
        launched.process.send_signal(signal.SIGUSR1)
        launched.ends(60)
        assert stopped_after(launched, folder) >= reached + 30
        assert f"(pid {killed}) is gone" in launched.output


def test_nohup_is_heeded_and_maris_fast_train_ends_after_its_ranks(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = ("nohup", sys.executable, "-m", "maris_fast.cli", "train", "--ranks", "2")
    with Launched(*command, *settings(cache, folder), log=tmp_path / "log") as launched:
        launched.reaches(folder, 3)
        os.killpg(launched.process.pid, signal.SIGHUP)
        launched.reaches(folder, records(folder, "train")[-1]["step"] + 20)
        launched.process.send_signal(signal.SIGUSR1)
        launched.process.wait(60)
        assert not launched.ranks()
        stopped_after(launched, folder)


def test_a_terminal_that_is_closed_costs_no_step(cache: Path, tmp_path: Path) -> None:
    """The kernel sends SIGHUP, and nothing can be printed any more."""
    folder = tmp_path / "run"
    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, str(MAIN), *settings(cache, folder)])
    seen, lines = b"", folder / "metrics.jsonl"
    while not (lines.exists() and '"step": 3,' in lines.read_text()):
        seen += os.read(terminal, 4096)  # raises if the process has ended
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    found = checkpoints.newest(folder)
    assert found is not None
    assert found[1].step == records(folder, "train")[-1]["step"] >= 3
    assert not lock_in(folder).exists()


def test_a_run_whose_folder_was_taken_over_writes_nothing_more_there(cache: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = (sys.executable, MAIN, *settings(cache, folder))
    with Launched(*command, log=tmp_path / "log") as launched:
        launched.reaches(folder, 3)
        lock_in(folder).unlink()
        with owned_folder(folder):
            launched.process.send_signal(signal.SIGTERM)
            launched.ends(60)
            assert lock_in(folder).exists()
    assert launched.process.returncode == 2
    (line,) = (line for line in launched.output.splitlines() if line.startswith("error: "))
    assert f"in use by process {os.getpid()} on" in line
    assert "it was taken over while this run was suspended, so this run ends" in line
    assert not list(folder.glob("checkpoints/step-*"))
    assert not (folder / "last.safetensors").exists()


def test_the_batch_script_of_the_documentation_is_requeued_and_resumes(cache: Path, tmp_path: Path) -> None:
    """With stand-ins for srun, which starts one task, and scontrol; Slurm is not installed here."""
    recipe, *others = RECIPE.findall((ROOT / "docs" / "many_machines.md").read_text())
    assert not others
    folder, programs = tmp_path / "run", tmp_path / "bin"
    one = {
        "SLURM_STEP_NUM_TASKS": "1",
        "SLURM_STEP_TASKS_PER_NODE": "1",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NODEID": "0",
        "SLURM_PROCID": "0",
        "SLURM_LOCALID": "0",
    }
    task = " ".join(f"{name}={value}" for name, value in one.items())
    for name, line in (
        ("srun", f'exec env {task} "$@" $MORE'),
        ("scontrol", f'echo "$@" >> {tmp_path}/scontrol'),
        ("python", f'exec {sys.executable} "$@"'),
    ):
        programs.mkdir(exist_ok=True)
        (programs / name).write_text(f"#!/bin/sh\n{line}\n")
        (programs / name).chmod((programs / name).stat().st_mode | stat.S_IXUSR)
    (tmp_path / "job").write_text(recipe)
    job = {"SLURM_JOB_ID": "123456", "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    more = " ".join(settings(cache, folder))
    with Launched("bash", tmp_path / "job", log=tmp_path / "log", **job, MORE=more) as launched:
        launched.reaches(folder, 3)
        launched.process.send_signal(signal.SIGUSR1)
        launched.ends(60)
        step = stopped_after(launched, folder)
    assert launched.process.returncode == 0
    assert (tmp_path / "scontrol").read_text() == "requeue 123456\n"
    more += " run.stop_after_steps=2"
    with Launched("bash", tmp_path / "job", log=tmp_path / "log", **job, MORE=more) as launched:
        launched.ends(120)
        assert stopped_after(launched, folder) == step + 2
    assert launched.process.returncode == 0
    assert (tmp_path / "scontrol").read_text() == "requeue 123456\n", "it ended by itself"


def test_ranks_of_a_command_that_has_nothing_to_keep_end_with_it(tmp_path: Path) -> None:
    """Such as an evaluation's, which do not watch their launcher."""
    rank, command = tmp_path / "rank.py", tmp_path / "command.py"
    rank.write_text(
        "import os, sys, time\nopen(sys.argv[-1] + os.environ['LOCAL_RANK'], 'w').close()\ntime.sleep(300)\n"
    )
    command.write_text(
        "import sys\n"
        "from maris_fast.cli.launching import launch\n"
        "from maris_fast.system.end_signals import interrupting\n"
        "with interrupting():\n"
        "    launch(2, *sys.argv[1:])\n"
    )
    with Launched(sys.executable, command, rank, tmp_path / "up", log=tmp_path / "log") as launched:
        until = time.monotonic() + 120
        while not ((tmp_path / "up0").exists() and (tmp_path / "up1").exists()):
            assert launched.process.poll() is None, launched.output
            assert time.monotonic() < until
            time.sleep(0.05)
        launched.process.send_signal(signal.SIGUSR1)
        launched.process.wait(60)
        assert not launched.ranks()


@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU"])
def test_whatever_asks_a_command_to_end_interrupts_it_once(number: str, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import os, signal\n"
        "from maris_fast.system.end_signals import interrupting\n"
        "try:\n"
        "    with interrupting():\n"
        f"        os.kill(os.getpid(), signal.{number})\n"
        "        print('went on')\n"
        "except KeyboardInterrupt:\n"
        "    print('interrupted')\n"
    )
    done = run(sys.executable, script)
    assert (done.returncode, done.stdout) == (0, "interrupted\n")
    if number == "SIGHUP":
        assert run("nohup", sys.executable, script).stdout == "went on\n"


def test_a_second_signal_does_not_disturb_the_clean_up() -> None:
    cleaned = False

    def work() -> None:
        nonlocal cleaned
        with end_signals.interrupting():
            try:
                os.kill(os.getpid(), signal.SIGHUP)
                time.sleep(5)
            finally:
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.01)
                cleaned = True

    before = signal.getsignal(signal.SIGHUP)
    with pytest.raises(KeyboardInterrupt):
        work()
    assert cleaned
    assert signal.getsignal(signal.SIGHUP) == before
