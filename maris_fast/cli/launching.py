"""Starts and ends the ranks of a command: a simpler interface to DeepSpeed's launcher."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from maris_fast.system import process_table
from maris_fast.system.end_signals import SECONDS_TO_STOP
from maris_fast.system.launchers import alone, free_port

PR_SET_CHILD_SUBREAPER = 36
VISIBLE = "CUDA_VISIBLE_DEVICES"

Ranks = Annotated[int, typer.Option(min=1, help="processes on this machine")]


def launch(ranks: int, *command: str) -> int:
    """Run ``command`` on ``ranks`` ranks; return its exit status.

    Raises:
        KeyboardInterrupt: interrupted, after the ranks have ended; training ends with a checkpoint.
    """
    _adopt_orphans()
    words, variables = launched(ranks, *command)
    with subprocess.Popen(words, env={**os.environ, **variables}) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            _end_ranks()
            raise
        # DeepSpeed's launcher reports 0, too, if its process for this machine was ended by a signal.
        lost_ranks = status == 0 and any(_ranks())
        if status < 0 or lost_ranks:
            _end_ranks()
    return 1 if lost_ranks else status


def _adopt_orphans() -> None:
    """Become the parent of processes that the launcher leaves behind, if the system supports it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_ranks() -> None:
    """Ask all ranks to end, and wait for them, since a batch system kills those that outlive us.

    The launcher does not do that: it dies at once, or waits.
    """
    until = time.monotonic() + SECONDS_TO_STOP
    asked: set[int] = set()
    with suppress(ChildProcessError):
        while time.monotonic() < until:
            for pid in set(_ranks()) - asked:
                asked.add(pid)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGTERM)
            if os.waitpid(-1, os.WNOHANG) == (0, 0):
                time.sleep(0.2)


def _ranks() -> Iterator[int]:
    """Our descendants that have a rank from the launcher, without the processes that these have started."""
    own = os.getpid()
    numbered = {
        pid for pid in process_table.descendants(own) if "RANK" in (process_table.environment(pid) or {})
    }
    return (pid for pid in numbered if process_table.parent(pid) not in numbered)


def launched(ranks: int, *command: str, devices: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """Arguments and variables that start ``command`` on ``ranks`` ranks, by DeepSpeed's launcher if needed.

    One rank needs no launcher, which takes longer to start than the rank itself.

    Args:
        devices: a GPU for each rank; by default the first ones, of CUDA_VISIBLE_DEVICES if it is set.
    """
    python = [sys.executable, "-u", *(["-m", *command[1:]] if command[0] == "--module" else command)]
    visible = ",".join(devices) if devices else os.environ.get(VISIBLE)
    if ranks == 1:
        return python, {**alone(), **({} if visible is None else {VISIBLE: visible})}
    launcher = Path(sys.executable).with_name("deepspeed")
    # Programs of this Python environment come first, whatever else is on PATH.
    variables = {"PATH": f"{launcher.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    # Ranks set their own; without it the launcher warns twice if the machine has no GPU.
    variables["DS_ACCELERATOR"] = os.environ.get("DS_ACCELERATOR", "cpu")
    if visible is not None:
        # The launcher gives each rank the numbers 0 to `ranks` - 1 and knows no names of GPUs, so each rank
        # sets the variable itself. The launcher would announce that it ignores the variable, unless empty.
        variables[VISIBLE] = ""
        python = ["env", f"{VISIBLE}={visible}", *python]
    # The launcher's default is a fixed port, on which two runs on a machine would collide.
    where = ["--num_gpus", str(ranks), "--master_port", str(free_port())]
    # The launcher's routine messages would come before those of the command.
    quiet = ["--log_level", "error"]
    as_given = ["--no_python", "--no_local_rank"]
    return [sys.executable, str(launcher), *quiet, *where, *as_given, *python], variables
