"""Training commands as a user starts them."""

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
"""Half of a small run's time goes into its report and pictures; for runs of which neither is tested."""
MARK = "MARIS_FAST_TEST_RUN"
_COUNT = itertools.count()


def tiny_training(cache: Path, folder: Path, *more: str) -> tuple[str, ...]:
    """Arguments for a launcher or Python that train a small model with the tiny configuration."""
    given = (f"data.cache={cache}", f"run.folder={folder}", "model.channels=16")
    return (str(MAIN), "--config", str(TINY), *given, *more)


def deepspeed(ranks: int = 2, *options: str) -> tuple[str, ...]:
    """Costs two more imports of PyTorch and DeepSpeed than ``torchrun``."""
    return ("deepspeed", "--num_gpus", str(ranks), "--master_port", free_port(), *options)


def torchrun(ranks: int = 2, *options: str) -> tuple[str, ...]:
    return ("torchrun", "--nproc-per-node", str(ranks), "--master-port", free_port(), *options)


def records(folder: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """The records of the run in ``folder``, all or of one kind."""
    told = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [record for record in told if kind in (None, record["kind"])]


def run(
    *command: str | Path,
    timeout: float = 480,
    packages: Sequence[Path] = (),
    changed: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a command with this Python's programs, this checkout and the packages in the folders ``packages``.

    ``changed``: environment variables to set.
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
    """Like ``run``, without waiting; standard error is merged into standard output."""
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
        port: where the tasks' rendezvous takes place.
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
    """A training command in the background, as a process group; processes left at the end are killed."""

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
        """Process ids of the ranks that are alive, by rank."""
        found = {}
        for pid, environment in self._all():
            rank = environment.get("RANK") or environment.get("SLURM_PROCID")
            if rank is not None:
                found.setdefault(int(rank), pid)  # a rank's own children come after it
        return found

    def ends(self, seconds: float) -> float:
        """Wait until the launcher and all its descendants have ended; return the seconds that took."""
        before = time.monotonic()
        while self.process.poll() is None or self._all():
            assert time.monotonic() - before < seconds, f"still there: {self.ranks()}\n{self.output[-4000:]}"
            time.sleep(0.05)
        return time.monotonic() - before

    def reaches(self, run_folder: Path, step: int, seconds: float = 120) -> None:
        """Wait until the run has recorded ``step``."""
        metrics, before = run_folder / "metrics.jsonl", time.monotonic()
        while not (metrics.exists() and f'"step": {step},' in metrics.read_text()):
            assert self.process.poll() is None, self.output[-4000:]
            assert time.monotonic() - before < seconds, self.output[-4000:]
            time.sleep(0.02)

    def _all(self) -> list[tuple[int, dict[str, str]]]:
        """Living processes of this command, oldest first, with their environment variables."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                raw = (folder / "environ").read_bytes()
                if f"{MARK}={self.mark}\0".encode() in raw:
                    pairs = (line.partition("=") for line in raw.decode(errors="replace").split("\0"))
                    found.append((int(folder.name), {name: value for name, _, value in pairs}))
        return sorted(found, key=lambda one: one[0])
