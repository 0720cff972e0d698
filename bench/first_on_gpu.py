"""The first 15 minutes on a GPU: the most valuable facts first, each written as soon as it is known.

``python -m maris_fast.bench.first_on_gpu --out FOLDER`` needs at most eight minutes and no network. Each step
runs in its own processes with its own time limit, so one that crashes (an illegal access ends its CUDA
context) or hangs does not affect the others. FOLDER gets ``first.jsonl``, one fact per line;
``first_processes.log``, the output of the processes; ``walks.csv`` if ncu is installed; and what was timed,
as suite results that ``maris-fast bench report`` draws, unless FOLDER has those of a complete run.
``--rehearse`` runs the same steps on a CPU, with small sizes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maris_fast.bench.results import ROOT, Suite, load
from maris_fast.errors import InputError

FACTS, LOG = "first.jsonl", "first_processes.log"
WELL, LEFT_OUT = "well", "left out"
MODULE = [sys.executable, "-m", "maris_fast.bench.first_steps"]
# Characters of a fact that are printed; the file has all of it.
SHOWN = 400
# What a walk's time consists of: seconds, bytes at each memory level, instructions, shared-memory cycles.
METRICS = (
    "gpu__time_duration.sum",
    "dram__bytes_read.sum",
    "dram__bytes_write.sum",
    "lts__t_bytes.sum",
    "smsp__inst_executed.sum",
    "l1tex__data_pipe_lsu_wavefronts_mem_shared.sum",
    "launch__registers_per_thread",
    "sm__warps_active.avg.pct_of_peak_sustained_active",
)
# Those that walk over the visual tokens, two of each call: forward, then backward.
KERNELS = "regex:mutual_attention_(fwd|bwd)(_chunked|_hopper)?_kernel"


@dataclass(frozen=True)
class Step:
    """Processes that run concurrently, by their names in first_steps.py, and their time limit in seconds."""

    name: str
    processes: tuple[str, ...]
    seconds: float
    profiled: bool = False


# The waterfall's rows: bf16, the kernels, all of the fast preset, and what they are compared with.
TRAINING_ROWS = (8, 9, 12, 5)
# Row 12 compiles.
TRAINING_SECONDS = {12: 100}


def steps(shares: int = 6) -> list[Step]:
    """All steps in order of value; the parity tests are divided among ``shares`` processes."""
    return [
        Step("once", ("once",), 75),
        Step("parity", tuple(f"parity:{place}/{shares}" for place in range(shares)), 120),
        Step("times", ("times",), 120),
        Step("attention", ("attention",), 50),
        *(
            Step(f"training-{row}", (f"training:{row}",), TRAINING_SECONDS.get(row, 60))
            for row in TRAINING_ROWS
        ),
        Step("walks", ("walks",), 60, profiled=True),
    ]


def run(wanted: Sequence[Step], out: Path, seconds: float, commit: str | None, rehearse: bool) -> bool:
    """Run the steps within ``seconds`` in total; return whether all ended well."""
    out.mkdir(parents=True, exist_ok=True)
    for name in (FACTS, LOG):
        (out / name).unlink(missing_ok=True)
    begun, shown, well = time.time(), 0, True
    with tempfile.TemporaryDirectory(prefix="maris-first-") as scratch:
        options = ["--facts", str(out / FACTS), "--begun", str(begun), "--scratch", scratch]
        options += ["--rehearse"] if rehearse else []
        options += ["--commit", commit] if commit else []
        for step in (Step("machine", ("machine",), 60), *wanted):
            at = time.time()
            left = begun + seconds - at
            ends = ["no time left"]
            if left > 0:
                ends = _ends(step, options, min(step.seconds, left), out, rehearse)
            now = time.time()
            line = {"step": step.name, "at_s": round(now - begun, 1), "fact": "ended", "how": ends}
            with (out / FACTS).open("a") as file:
                file.write(json.dumps({**line, "seconds": round(now - at, 1)}) + "\n")
            well &= all(end == WELL or end.startswith(LEFT_OUT) for end in ends)
            facts = list(read(out / FACTS))
            for fact in facts[shown:]:
                print(json.dumps(fact)[:SHOWN], flush=True)
            shown = len(facts)
            save_suites(out, facts)
    return well


def _ends(step: Step, options: list[str], seconds: float, out: Path, rehearse: bool) -> list[str]:
    """How each process of a step ended: WELL, or what happened to it."""
    profiler: list[str] = []
    if step.profiled:
        found = shutil.which("ncu")
        if found is None and not rehearse:
            return [f"{LEFT_OUT}: ncu is not on the PATH"]
        if found is not None and not rehearse:
            profiler = [found, "--csv", "--page", "raw", "--log-file", str(out / f"{step.name}.csv")]
            profiler += ["-k", KERNELS, "--metrics", ",".join(METRICS)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if rehearse:
        environment |= {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    with (out / LOG).open("a") as log:
        started = [
            subprocess.Popen(
                [*profiler, *MODULE, name, *options],
                env=environment,
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            for name in step.processes
        ]
    deadline = time.monotonic() + seconds
    try:
        return [_end(process, deadline, seconds) for process in started]
    finally:
        for process in started:
            _kill(process)


def _end(process: subprocess.Popen[bytes], deadline: float, seconds: float) -> str:
    try:
        status = process.wait(timeout=max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        _kill(process)
        return f"stopped after {seconds:.0f} s"
    if status < 0:
        return f"ended by {signal.Signals(-status).name}"
    return WELL if status == 0 else f"failed, status {status}"


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and all that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def read(file: Path) -> Iterator[dict[str, Any]]:
    """The facts written so far; a line that a killed process left unfinished is skipped."""
    for line in file.read_text().splitlines() if file.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def save_suites(out: Path, facts: Sequence[dict[str, Any]]) -> list[Path]:
    """Write what was timed so far as suite results, ``<out>/<device>/<suite>.json``; return the files.

    Results of a complete run stay as they are.
    """
    about = ("step", "fact", "at_s")
    here = next((fact for fact in facts if fact["fact"] == "machine"), None)
    if here is None:
        return []
    environment = {name: value for name, value in here.items() if name not in (*about, "commit", "dirty")}
    rows: dict[str, list[dict[str, Any]]] = {}
    for fact in facts:
        if fact["fact"] == "row":
            row = {name: value for name, value in fact.items() if name not in (*about, "suite")}
            rows.setdefault(fact["suite"], []).append(row)
    for found in rows.values():
        found.sort(key=lambda row: int(row.get("number", 0)))  # rows of the waterfall in its order
    date = datetime.now(UTC).isoformat(timespec="seconds")
    suites = [
        Suite(name, date, here["commit"], here["dirty"], environment, found, complete=False)
        for name, found in rows.items()
    ]
    return [suite.save(out) for suite in suites if not _complete(suite.file(out))]


def _complete(file: Path) -> bool:
    try:
        return load(file).complete
    except InputError:  # no file, or a damaged one
        return False


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "first")
    parser.add_argument("--minutes", type=float, default=8, help="of all steps together")
    parser.add_argument("--commit", help="what is measured, where there is no repository to ask")
    parser.add_argument("--only", action="append", choices=[step.name for step in steps()])
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, small")
    options = parser.parse_args(arguments)
    wanted = [
        step for step in steps(2 if options.rehearse else 6) if not options.only or step.name in options.only
    ]
    well = run(wanted, options.out.resolve(), 60 * options.minutes, options.commit, options.rehearse)
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
