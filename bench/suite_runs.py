"""Runs the pytest-benchmark suites and saves their results."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from maris_fast.bench.results import ROOT, SUITE_FILES, SUITES, Row, Suite
from maris_fast.errors import ConfigError, MarisError

ROWS_VARIABLE = "MARIS_FAST_BENCH_ROWS"
"""Names the file that a suite's process appends each row to, as soon as it is known."""


class BenchmarkError(MarisError):
    """A suite without results: a case was wrong, or did not run."""


def run(suites: Sequence[str], out: Path, keyword: str | None = None) -> Iterator[Path]:
    """Run each suite in a process of its own and write its file; yield the path as each is done.

    Raises:
        ConfigError: an unknown suite, no suites here, or pytest-benchmark is not installed.
        BenchmarkError: a case failed; its suite's file is not written, and the rows before it are left in
            ``<suite>.rows.jsonl``.
    """
    if not SUITES:
        raise ConfigError(f"benchmark suites run in a clone of the project; {ROOT} has no bench/suites")
    unknown = set(suites) - set(SUITES)
    if unknown:
        raise ConfigError(f"no suite {', '.join(sorted(unknown))}; known are {', '.join(SUITES)}")
    if find_spec("pytest_benchmark") is None:
        raise ConfigError("the suites need pytest-benchmark: pip install 'maris-fast[test]'")
    out.mkdir(parents=True, exist_ok=True)
    for suite in suites or SUITES:
        rows = out.resolve() / f"{suite}.rows.jsonl"
        rows.unlink(missing_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder, "benchmark.json")
            command = [
                sys.executable,
                "-m",
                "pytest",
                str(SUITE_FILES / f"test_{suite}.py"),
                "--benchmark-only",
            ]
            command += ["-q", "-p", "no:cacheprovider", f"--benchmark-json={file}"]
            command += [] if keyword is None else ["-k", keyword]
            path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
            own = {"PYTHONPATH": path, ROWS_VARIABLE: str(rows)}
            status = subprocess.call(command, cwd=ROOT, env={**os.environ, **own})
            if status == 5:
                raise ConfigError(f"no case of {suite} matches -k {keyword!r}")
            if status != 0:
                left = f"; rows measured before it are in {rows}" if rows.exists() else ""
                raise BenchmarkError(
                    f"{suite}: a case failed (see above), so its results are not saved{left}; "
                    f"pytest exited with status {status}"
                )
            rows.unlink(missing_ok=True)
            yield kept(suite, json.loads(file.read_text())).save(out)


def kept(suite: str, report: dict[str, Any]) -> Suite:
    """pytest-benchmark's report as a ``Suite``: what the rows recorded, and their wall time."""
    return Suite.now(suite, report["machine_info"], [_row(case) for case in report["benchmarks"]])


def _row(case: dict[str, Any]) -> Row:
    """A row, named and timed by the test itself, or else by its parameters and pytest-benchmark's clock."""
    name = case["name"].partition("[")[0].removeprefix("test_")
    stats = case["stats"]
    wall = {q: round(1e3 * stats[key], 5) for q, key in (("0.25", "q1"), ("0.5", "median"), ("0.75", "q3"))}
    own = {"shape": (case["params"] or {}).get("shape", name), "timer": "wall", "ms": wall}
    return {**own, **case["extra_info"], "wall_rounds": stats["rounds"]}
