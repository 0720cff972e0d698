"""Starts the ranks of a command, and ends them: DeepSpeed's launcher, made easier to type."""

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
from maris_fast.system.launchers import alone, free_port

SECONDS_TO_STOP = 120.0
"""For a step and a checkpoint."""
PR_SET_CHILD_SUBREAPER = 36

Ranks = Annotated[int, typer.Option(min=1, help="processes on this machine")]


def launch(ranks: int, *command: str) -> int:
    """Runs ``command`` on so many ranks; its exit status.

    Raises:
        KeyboardInterrupt: asked to end, and the ranks have ended: a training with a checkpoint.
    """
    _adopt_orphans()
    words, variables = launched(ranks, *command)
    with subprocess.Popen(words, env={**os.environ, **variables}) as process:
        try:
            status = process.wait()
        except KeyboardInterrupt:
            _end_ranks()
            raise
        if status < 0:  # by a signal that we were not sent
            _end_ranks()
    return status


def _adopt_orphans() -> None:
    """What the launcher leaves becomes our child, where the system can do that."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _end_ranks() -> None:
    """Asks all ranks to end, and waits for them, since a batch system kills those that we leave.

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
    """Processes below us that the launcher has given a number, without those that they have started."""
    own = os.getpid()
    numbered = {
        pid for pid in process_table.descendants(own) if "RANK" in (process_table.environment(pid) or {})
    }
    return (pid for pid in numbered if process_table.parent(pid) not in numbered)


def launched(ranks: int, *command: str, devices: Sequence[str] = ()) -> tuple[list[str], dict[str, str]]:
    """The words and variables that start ``command`` on so many ranks, by DeepSpeed's launcher where needed.

    One rank needs no launcher, whose start takes longer than that of the rank.

    Args:
        devices: a GPU for each rank; the first ones by default.
    """
    if ranks == 1:
        words = ["-m", *command[1:]] if command[0] == "--module" else command
        visible = {"CUDA_VISIBLE_DEVICES": devices[0]} if devices else {}
        return [sys.executable, "-u", *words], {**alone(), **visible}
    launcher = Path(sys.executable).with_name("deepspeed")
    # Of this very environment, whatever else is first on PATH.
    variables = {"PATH": f"{launcher.parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    where = ["--include", f"localhost:{','.join(devices)}"]
    if not devices:
        where = ["--num_gpus", str(ranks)]
        # Ranks set their own; without one the launcher warns twice of a machine without a GPU.
        variables["DS_ACCELERATOR"] = os.environ.get("DS_ACCELERATOR", "cpu")
    # The launcher's own choice is one fixed port, and two runs on a machine would meet there.
    port = ["--master_port", str(free_port())]
    # What it does all the time would stand before what the command has to say.
    quiet = ["--log_level", "error"]
    return [sys.executable, str(launcher), *quiet, *where, *port, *command], variables
