"""New results against earlier ones of a device, as ratios within each run: machines vary from day to day."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from maris_fast.bench.drawing.suites import MEDIAN, cases_of
from maris_fast.bench.results import SUITES, Suite, load
from maris_fast.errors import InputError

PLAIN = ("eager", "reference")
STEP = "step"


@dataclass(frozen=True)
class Change:
    """Speedup of a case over the plain implementation of the same run, before and now."""

    device: str
    suite: str
    case: str
    before: float
    now: float

    def slower(self, tolerance: float) -> bool:
        return self.now < self.before / (1 + tolerance)


def compare(new: Path, old: Path) -> list[Change]:
    """Changes of the cases that both folders hold, read from ``<folder>/<device>/<suite>.json``.

    Raises:
        InputError: the new folder holds no results, or a file can't be read.
    """
    files = sorted(file for name in (*SUITES, STEP) for file in new.glob(f"*/{name}.json"))
    if not files:
        raise InputError(f"{new} holds no <device>/<suite>.json; write some with maris-fast bench run --out")
    return [change for file in files for change in _changes(load(file), old / file.relative_to(new))]


def _changes(suite: Suite, earlier: Path) -> Iterator[Change]:
    if not earlier.is_file():
        return
    before = speedups(load(earlier))
    for case, now in speedups(suite).items():
        if case in before:
            yield Change(str(suite.environment["device"]), suite.suite, case, before[case], now)


def speedups(suite: Suite) -> dict[str, float]:
    """Speedup of each case over the plain implementation; of each row of ``step`` over its first row."""
    if suite.suite == STEP:
        rows = [row for row in suite.rows if "left_out" not in row]
        rates = {row["name"]: median(row["expressions_per_s"]) for row in rows}
        first = next(iter(rates.values()), 1.0)
        return {name: rate / first for name, rate in rates.items()}
    found: dict[str, float] = {}
    for (shape, part), case in cases_of(suite).items():
        plain = next((case[name]["ms"][MEDIAN] for name in PLAIN if name in case), None)
        if plain is not None:
            times = {impl: row["ms"][MEDIAN] for impl, row in case.items() if impl not in PLAIN}
            found |= {f"{shape}: {part} {impl}": plain / ms for impl, ms in times.items()}
    return found
