"""Proofs of kinds of calls: each candidate's parity, then the time of those that were right.

Candidates run in a child process (trial.py), as an illegal access ends a CUDA context. One that crashes,
hangs or ends the context is recorded as failed, and a fresh child continues with the others. A failure that
says nothing about the candidate (a lack of memory, a kill from outside) holds for this process only.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from maris_fast.kernels.choice import table
from maris_fast.kernels.choice.operation import Kind, Operation, text
from maris_fast.kernels.choice.table import Certificates, Found

# Times within this factor of the fastest are ties, and a tie goes to the candidate listed first.
TIE = 1.05
# Seconds without a message after which a candidate counts as hung (a kernel compiles in up to ten), and
# seconds that Python and PyTorch may take to start.
PATIENCE, START = 90.0, 300.0
# Seconds between two looks at the child's messages, and those after which this process must have been
# suspended in between, and the child with it.
LOOK, SUSPENDED = 0.05, 5.0
# Sent by users, launchers and the kernel's lack of memory; a crash has other signals.
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# Of maris_fast, in a clone or in site-packages. Last on the child's path, and without the current folder:
# other packages may import a `kernels` or `train` of their own.
HOME = Path(__file__).parents[3]
CHILD = (
    "import runpy, sys; sys.path.append(sys.argv.pop(1)); "
    "runpy.run_module('maris_fast.kernels.choice.trial', run_name='__main__')"
)

Told = Callable[[str], None]


class Work:
    """One kind of one operation: the candidates still to be tried, and the results of the others."""

    def __init__(self, operation: Operation, kind: Kind, device: torch.device) -> None:
        self.operation, self.kind = operation, text(kind)
        self.candidates = list(operation.candidates(kind, device))
        self.right: list[str] = []
        self.results: dict[str, dict[str, Any]] = {}
        self.timed = operation.timed(device)
        self.finished = False
        self.passing = False
        """Whether a candidate may be right at another time."""

    @property
    def done(self) -> bool:
        return all(candidate in self.results for candidate in self.candidates)

    def fail(self, candidate: str, reason: str, *, passing: bool = False) -> None:
        self.results[candidate] = {"reason": reason}
        self.passing |= passing

    def asked(self) -> dict[str, Any]:
        """The request to a child process."""
        left = [candidate for candidate in self.candidates if candidate not in self.results]
        return {
            "operation": self.operation.where,
            "kind": self.kind,
            "candidates": left,
            "right": [candidate for candidate in self.right if candidate in left],
        }

    def hear(self, said: Mapping[str, Any]) -> None:
        candidate = said["candidate"]
        if "ms" in said:
            self.results[candidate] = {"ms": said["ms"]}
        elif said.get("failures"):
            self.fail(candidate, f"wrong: {'; '.join(said['failures'])}")
        elif "reason" in said:
            self.fail(candidate, said["reason"], passing=said["passing"])
        elif "failures" in said:
            self.right.append(candidate)

    def found(self) -> Found:
        return {"chosen": choose(self.candidates, self.results, self.timed), "results": self.results}

    def learned(self) -> tuple[dict[str, dict[str, Found]], dict[str, str]]:
        """The results and sources, as ``Certificates.take`` and ``learn`` take them."""
        name = self.operation.name
        return {name: {self.kind: self.found()}}, {name: self.operation.sources_hash()}


def choose(
    candidates: Sequence[str], results: Mapping[str, Mapping[str, Any]], timed: bool = True
) -> str | None:
    """The first listed within 5% of the fastest that was right, or, if not timed, the first; else None."""
    times = {name: results[name]["ms"] for name in candidates if "ms" in results.get(name, {})}
    if not times:
        return None
    bound = TIE * min(times.values())
    return next(name for name, ms in times.items() if ms <= bound or not timed)


def prove(
    wanted: Iterable[tuple[Operation, Kind]],
    device: torch.device,
    told: Told = lambda _: None,
    patience: float = PATIENCE,
    again: bool = False,
    alive: Callable[[], None] = lambda: None,
) -> Certificates:
    """Prove the kinds that have no certificate yet, or all of them with ``again``; return all certificates.

    ``told`` is called with a line for each kind, and with where the certificates were written, or why not;
    ``alive`` at each sign of progress, which are at most ``patience`` seconds apart once the child runs.
    """
    known = table.of_device(device)
    pairs = list(dict.fromkeys(wanted))
    if not again:
        pairs = [pair for pair in pairs if _unknown(known, *pair)]
    works = [Work(operation, kind, device) for operation, kind in pairs]
    said_of_file: str | None = None
    begun = time.monotonic()

    def finish(work: Work) -> None:
        nonlocal said_of_file, begun
        _tell(told, works.index(work) + 1, len(works), work, time.monotonic() - begun)
        begun = time.monotonic()
        # At once, so that a process stopped later keeps this one.
        if work.passing:
            known.take(*work.learned())
        else:
            said_of_file = known.learn(*work.learned()) or f"wrote {known.file}"

    left = works
    while left := [work for work in left if not work.finished]:
        untried = _one_child(left, device, patience, finish, alive)
        if untried is not None:
            left = [work for work in left if not work.finished]
            for work in left:
                for candidate in work.asked()["candidates"]:
                    work.fail(candidate, untried, passing=True)
                known.take(*work.learned())
            told(f"kernels: {len(left)} kinds can't be tried now, {untried}; the next start tries again")
            break
    if said_of_file is not None:
        told(said_of_file)
    return known


def _unknown(known: Certificates, operation: Operation, kind: Kind) -> bool:
    stale = known.sources.get(operation.name) != operation.sources_hash()
    return stale or known.find(operation.name, text(kind)) is None


def _tell(told: Told, number: int, count: int, work: Work, seconds: float) -> None:
    """Report which candidate was chosen for a kind, and why the others were not."""
    parts = [
        f"{name} {result['ms']:.3g} ms" if "ms" in result else f"{name} left out, {result['reason']}"
        for name, result in work.results.items()
    ]
    parts += ["the next start tries again"] if work.passing else []
    chosen = work.found()["chosen"]
    told(
        f"kernels {number} of {count}, {work.operation.name} {work.kind}: "
        f"{chosen or 'none was right'} ({'; '.join(parts)}; {seconds:.0f} s)"
    )


def _one_child(
    works: Sequence[Work],
    device: torch.device,
    patience: float,
    finish: Callable[[Work], None],
    alive: Callable[[], None],
) -> str | None:
    """Run a child on all that is left; if it dies or hangs, the candidate it was trying has failed.

    ``finish`` is called with each kind that has no candidate left. Returns why nothing could be tried, if the
    child never came to its first trial, or failed between two: no other child would fare better now.
    """

    def finish_those_done() -> None:
        for work in works:
            if work.done and not work.finished:
                work.finished = True
                finish(work)

    finish_those_done()
    with tempfile.TemporaryDirectory(prefix="maris-kernels-") as folder:
        asked, answers = Path(folder, "asked.json"), Path(folder, "answers.jsonl")
        asked.write_text(json.dumps([work.asked() for work in works]))
        answers.touch()
        command = [sys.executable, "-P", "-c", CHILD, str(HOME)]
        with Path(folder, "said").open("wb") as said_by_it:
            process = subprocess.Popen(
                [*command, str(asked), str(answers), str(device), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said_by_it,
                start_new_session=True,
            )
        heard = 0
        last = looked = time.monotonic()
        at: tuple[Work, str] | None = None
        trying = lost = False
        try:
            while not lost:
                if (now := time.monotonic()) - looked > SUSPENDED:
                    last += now - looked
                looked = now
                ended = process.poll() is not None
                lines = answers.read_text().split("\n")[:-1]
                for line in lines[heard:]:
                    said = json.loads(line)
                    last = now
                    alive()
                    at = (works[said["work"]], said["candidate"])
                    trying, lost = "trying" in said, said.get("lost", False)
                    if not trying:
                        at[0].hear(said)
                heard = len(lines)
                finish_those_done()
                if ended or now - last > (START if at is None else patience):
                    break
                time.sleep(LOOK)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            status = process.wait()
        said_by_child = Path(folder, "said").read_text(errors="replace")
    if lost or all(work.done for work in works):
        return None
    if not ended:
        reason = f"hung: no answer in {START if at is None else patience:.0f} s"
    else:
        reason = _why(status, said_by_child)
    # An exception that is none of a trial's says nothing about a candidate.
    if at is None or (status > 0 and not trying):
        return reason
    passing = ended and -status in FROM_OUTSIDE
    if at[1] not in at[0].results:
        at[0].fail(at[1], reason, passing=passing)
    else:
        # It died after an answer and before the next trial, so the next candidate is the likely cause.
        work = next(work for work in works if not work.done)
        work.fail(work.asked()["candidates"][0], reason, passing=passing)
    finish_those_done()
    return None


def _why(status: int, said: str) -> str:
    if status < 0:
        return f"{'ended' if -status in FROM_OUTSIDE else 'crashed'}: {signal.Signals(-status).name}"
    lines = said.strip().splitlines() or [""]
    # CUDA's errors end with advice: what happened is the line after the traceback, whose lines are indented.
    after = max((number for number, line in enumerate(lines, 1) if line.startswith("  ")), default=len(lines))
    return f"crashed: status {status}, {lines[min(after, len(lines) - 1)][:200]}".removesuffix(", ")
