"""Training commands as a person starts them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from maris_fast.system import launchers

ROOT = Path(__file__).parents[2]
MAIN = ROOT / "train" / "main.py"
TINY = ROOT / "train" / "configs" / "tiny.yaml"
NOTHING_TO_SEE = ("run.report=false", "run.pictures=0")
"""Half of a small run's time goes into its page and pictures: for those of which neither is looked at."""
MARK = "MARIS_FAST_TEST_RUN"
_COUNT = itertools.count()


def tiny_training(cache: Path, folder: Path, *more: str) -> tuple[str, ...]:
    """A training of a small model by the tiny configuration, as words after a launcher or Python."""
    given = (f"data.cache={cache}", f"run.folder={folder}", "model.channels=16")
    return (str(MAIN), "--config", str(TINY), *given, *more)


def deepspeed(ranks: int = 2, *options: str) -> tuple[str, ...]:
    """Costs two imports of PyTorch and DeepSpeed more than ``torchrun``."""
    return ("deepspeed", "--num_gpus", str(ranks), "--master_port", free_port(), *options)


def torchrun(ranks: int = 2, *options: str) -> tuple[str, ...]:
    return ("torchrun", "--nproc-per-node", str(ranks), "--master-port", free_port(), *options)


def records(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """What the run in ``folder`` has recorded, all of it or one kind."""
    told = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record for record in told if kind in (None, record["kind"])]


def run(
    *command: str | Path,
    timeout: float = 480,
    packages: Sequence[Path] = (),
    changed: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs this Python's programs on this checkout's packages, and on those in the folders ``packages``.

    ``changed``: variables of the environment.
    """
    return subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**_environment(packages), **(changed or {})},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def start(*command: str | Path) -> subprocess.Popen[str]:
    """Like ``run``, without waiting; standard error goes with standard output."""
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env=_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def srun_task(task: int, port: str) -> dict[str, str]:
    """The environment of one of two tasks that srun starts here, without srun, which is not installed.

    Args:
        port: of the tasks' meeting.
    """
    return {
        "SLURM_JOB_ID": "123456",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_STEP_TASKS_PER_NODE": "2",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_NODEID": "0",
        "SLURM_PROCID": str(task),
        "SLURM_LOCALID": str(task),
        "MASTER_PORT": port,
    }


def _environment(packages: Sequence[Path] = ()) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, *packages))), "PATH": path}


def free_port() -> str:
    return str(launchers.free_port())


class Launched:
    """A training command in the background, a process group; whatever of it is left at the end is killed."""

    def __init__(self, *command: str | Path, log: Path, **environment: str) -> None:
        self.mark = f"{os.getpid()}-{next(_COUNT)}"
        self.log = log
        with log.open("w") as out:
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=ROOT,
                env={**_environment(), MARK: self.mark, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __enter__(self) -> Launched:
        return self

    def __exit__(self, *_: object) -> None:
        for pid, _ in self._all():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    @property
    def output(self) -> str:
        return self.log.read_text()

    def ranks(self) -> dict[int, int]:
        """Process ids by rank, of those that live."""
        found = {}
        for pid, environment in self._all():
            rank = environment.get("RANK") or environment.get("SLURM_PROCID")
            if rank is not None:
                found.setdefault(int(rank), pid)  # a rank's own children come after it
        return found

    def ends(self, seconds: float) -> float:
        """Waits until the launcher and all that it started are gone; how long that took."""
        before = time.monotonic()
        while self.process.poll() is None or self._all():
            assert time.monotonic() - before < seconds, f"still there: {self.ranks()}\n{self.output[-4000:]}"
            time.sleep(0.05)
        return time.monotonic() - before

    def reaches(self, run_folder: Path, step: int, seconds: float = 120) -> None:
        """Waits until the run has recorded ``step``."""
        metrics, before = run_folder / "metrics.jsonl", time.monotonic()
        while not (metrics.exists() and f'"step": {step},' in metrics.read_text()):
            assert self.process.poll() is None, self.output[-4000:]
            assert time.monotonic() - before < seconds, self.output[-4000:]
            time.sleep(0.02)

    def _all(self) -> list[tuple[int, dict[str, str]]]:
        """Living processes of this command, oldest first, with what was in their environment."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                raw = (folder / "environ").read_bytes()
                if f"{MARK}={self.mark}\0".encode() in raw:
                    pairs = (line.partition("=") for line in raw.decode(errors="replace").split("\0"))
                    found.append((int(folder.name), {name: value for name, _, value in pairs}))
        return sorted(found, key=lambda one: one[0])
