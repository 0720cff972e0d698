"""The processes of an ablation: each run trains, then is scored; several runs execute in parallel."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maris_fast.ablation.record import ABLATION, Record
from maris_fast.ablation.runs import AblationRun
from maris_fast.system.end_signals import SECONDS_TO_STOP
from maris_fast.system.progress import Runs
from maris_fast.train.by_products import ByProduct
from maris_fast.train.run_files import METRICS

LOOK_EVERY = 0.2
LAST_BYTES = 20_000
"""Bytes at the end of a run's metrics that are read for its progress; they hold several records."""


@dataclass(frozen=True)
class Command:
    """A process to start: its arguments, and variables on top of this process's environment."""

    words: Sequence[str]
    environment: dict[str, str]


class _Job:
    """A run in progress: its commands execute one after another, their output goes to one log."""

    def __init__(self, run: AblationRun, commands: Sequence[Command], log: Path) -> None:
        self.run, self.log = run, log
        self._left = iter(commands)
        log.parent.mkdir(exist_ok=True)
        self._begin = log.stat().st_size if log.exists() else 0
        self._process = self._next()

    def poll(self) -> int | None:
        """Exit status of the first command that failed, or of the last; None while commands are running."""
        if self._process is None:
            return 0
        status = self._process.poll()
        if status == 0:
            self._process = self._next()
            return None if self._process else 0
        return status

    def error(self, status: int) -> str:
        """The last output line with "error" in it, else the last line; with the status and the log's path."""
        with self.log.open("rb") as file:
            file.seek(self._begin)
            text = file.read().decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = [line for line in lines if "error" in line.lower()]
        return f"{([*lines[-1:], *said[-1:]] or ['it said nothing'])[-1]} (status {status}; {self.log})"

    def stop(self, number: signal.Signals) -> None:
        """Send a signal to the process and those that it has started."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def wait(self, until: float) -> None:
        """Wait for the end of the process and those that it has started, at most until the time ``until``."""
        while self._process is not None and time.monotonic() < until:
            self._process.poll()  # reaps a process that has ended, which stays in its group until then
            try:
                os.killpg(self._process.pid, 0)
            except ProcessLookupError:
                return
            time.sleep(LOOK_EVERY)

    def _next(self) -> subprocess.Popen[bytes] | None:
        command = next(self._left, None)
        if command is None:
            return None
        with self.log.open("ab") as out:
            # A session of its own: Ctrl-C reaches only this process, which passes it on once.
            return subprocess.Popen(
                list(command.words),
                env={**os.environ, **command.environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


class Runner:
    """Executes the runs that are not done, ``jobs`` at a time.

    Args:
        folder: folder of the ablation.
        steps: returns the commands of a run in one of the ``jobs`` parallel places, numbered from 0.
        collect: returns a run's measured values and its environment, after its last command.
    """

    def __init__(
        self,
        folder: Path,
        record: Record,
        steps: Callable[[AblationRun, int], Sequence[Command]],
        collect: Callable[[AblationRun], tuple[dict[str, Any], dict[str, Any]]],
        progress: Runs,
        *,
        jobs: int,
    ) -> None:
        self._folder, self._record = folder, record
        self._steps, self._collect, self._progress = steps, collect, progress
        self._saved = ByProduct(ABLATION, "the runs continue, and it is tried again after each")
        self._jobs: list[_Job | None] = [None] * jobs

    def work(self, runs: Sequence[AblationRun]) -> None:
        """Execute runs until all are done or have failed; each is recorded when it ends.

        Raises:
            KeyboardInterrupt: after every process has stopped, training with a checkpoint.
            OSError: the record could not be written at the end.
        """
        waiting = deque(run for run in runs if not self._record.is_done(run))
        self._total, self._ended = len(runs), len(runs) - len(waiting)
        try:
            while waiting or any(self._jobs):
                for place, job in enumerate(self._jobs):
                    status = job.poll() if job is not None else None
                    if job is not None and status is not None:
                        self._end(job, status)
                        job = self._jobs[place] = None
                    if job is None and waiting:
                        self._jobs[place] = self._start(waiting.popleft(), place)
                self._show()
                time.sleep(LOOK_EVERY)
        except BaseException:
            self._stop()
            raise
        if self._saved.failures:
            self._record.save(self._folder)

    def _start(self, run: AblationRun, place: int) -> _Job:
        log = self._folder / "logs" / f"{run.name}.log"
        return _Job(run, self._steps(run, place), log)

    def _end(self, job: _Job, status: int) -> None:
        self._ended += 1
        if status:
            error = job.error(status)
            self._record.fail(job.run, error)
            told = f"failed: {error}"
        else:
            measured, environment = self._collect(job.run)
            self._record.finish(job.run, measured, environment)
            told = (
                f"oIoU {100 * measured['scores']['oIoU']:.2f}, trained in {measured['train_seconds']:.0f} s"
            )
        self._saved.attempt(lambda: self._record.save(self._folder))
        self._progress.say(f"[{self._ended}/{self._total}] {job.run.name}: {told}")

    def _show(self) -> None:
        working = [job for job in self._jobs if job is not None]
        parts = sum(_share_done(self._folder / job.run.name / METRICS) for job in working)
        self._progress.at(self._ended + parts, [job.run.name for job in working])

    def _stop(self) -> None:
        """Stop all jobs: training ends after a step, with a checkpoint; a second interrupt kills them."""
        working = [job for job in self._jobs if job is not None]
        try:
            for job in working:
                job.stop(signal.SIGTERM)
            until = time.monotonic() + SECONDS_TO_STOP
            for job in working:
                job.wait(until)
        finally:
            for job in working:
                job.stop(signal.SIGKILL)


def _share_done(metrics: Path) -> float:
    """Share of a run's steps that are done, by the last record of its metrics; 0 if there is none."""
    try:
        with metrics.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
            lines = file.read().splitlines()
    except OSError:
        return 0.0
    for line in reversed(lines):
        with suppress(ValueError, KeyError):
            record = json.loads(line)
            return float(record["step"] / record["total_steps"])
    return 0.0
