"""Run checks one after the other, each in its own process, so that one that dies or hangs is a finding."""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import IO

from maris_fast.doctor.finding import Finding, broken, not_run
from maris_fast.doctor.subject import Subject
from maris_fast.errors import MarisError

# A check inherits the modules imported so far (``Check.opens``), but no CUDA context.
_FORK = multiprocessing.get_context("fork")
_LEAVE_SECONDS = 2.0
_LINES = 6


@dataclass(frozen=True)
class Check:
    """One check.

    ``seconds``: limit after which it counts as broken. ``concerns``: whether it applies to a subject.
    ``after``: checks that must not be broken for it to run. ``opens``: modules that are imported for all
    later checks once this one is ok; none may look for a GPU, since CUDA does not survive a fork.
    """

    name: str
    run: Callable[[Subject], Finding]
    seconds: float = 60
    concerns: Callable[[Subject], bool] = lambda _: True
    after: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()


@dataclass(frozen=True)
class Result:
    name: str
    finding: Finding
    seconds: float


def examine(
    checks: Sequence[Check], subject: Subject, starting: Callable[[str], None] = lambda _: None
) -> Iterator[Result]:
    """The result of each check that applies to ``subject``, as soon as it is known.

    A check that raises, dies or takes longer than ``Check.seconds`` is broken; the others still run.
    ``starting`` is called with a check's name before it runs.
    """
    broken_before: set[str] = set()
    for check in checks:
        if check.concerns(subject):
            starting(check.name)
            began = time.monotonic()
            in_its_way = [name for name in check.after if name in broken_before]
            if in_its_way:
                finding = not_run(f"{' and '.join(in_its_way)} must be right first")
            else:
                finding = _found(check, subject)
            if finding.status == "broken":
                broken_before.add(check.name)
            elif finding.status == "ok":
                for module in check.opens:
                    with suppress(Exception):  # checks that need it report the failure
                        importlib.import_module(module)
            yield Result(check.name, finding, time.monotonic() - began)


def _found(check: Check, subject: Subject) -> Finding:
    receiver, sender = _FORK.Pipe(duplex=False)
    with tempfile.TemporaryFile("w+b") as said, receiver:
        process = _FORK.Process(target=_work, args=(check, subject, sender, said.fileno()))
        process.start()
        sender.close()
        try:
            return _answer(check, process, receiver, said)
        finally:
            _end(process)


def _work(check: Check, subject: Subject, sender: Connection, said: int) -> None:
    os.setsid()  # so that processes that a check starts are killed with it
    for stream in (1, 2):
        os.dup2(said, stream)
    sys.stdout = sys.stderr = os.fdopen(said, "w", buffering=1, closefd=False)
    try:
        finding = check.run(subject)
    except MarisError as error:  # its message is meant for users and says what to do
        finding = broken(str(error), "", "")
    except BaseException as error:
        traceback.print_exc()
        where = traceback.extract_tb(error.__traceback__)[-1]
        came = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
        finding = broken(f"the check failed with {came}", "a check that ends", "")
    sender.send(finding)
    sender.close()


def _answer(check: Check, process: BaseProcess, receiver: Connection, said: IO[bytes]) -> Finding:
    if not receiver.poll(check.seconds):
        return broken(
            f"no answer after {check.seconds:g} s{_last_lines(said)}",
            "an answer",
            "look for what hangs: a network's file system, a GPU's driver, a port that a firewall closes",
        )
    try:
        finding: Finding = receiver.recv()
        return finding
    except EOFError:
        process.join(_LEAVE_SECONDS)
        code = process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"exit status {code}"
        return broken(
            f"the check's process ended with {how}{_last_lines(said)}",
            "a check that ends",
            "common causes: a library built for another machine or version, or a lack of memory (`dmesg`)",
        )


def _last_lines(said: IO[bytes]) -> str:
    said.seek(0)
    lines = [line.strip() for line in said.read().decode(errors="replace").splitlines() if line.strip()]
    return f"; it said: {' | '.join(lines[-_LINES:])}" if lines else ""


def _end(process: BaseProcess) -> None:
    if process.pid is not None:
        process.join(_LEAVE_SECONDS / 4)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.join()
