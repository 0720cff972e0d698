"""New results against earlier ones of a device, as ratios within each run: machines vary from day to day."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import median

from maris_fast.bench.drawing.suites import MEDIAN, cases_of
from maris_fast.bench.results import SUITES, Row, Suite, load
from maris_fast.errors import InputError

PLAIN = ("eager", "reference", "projected")
"""The implementation of each suite that the others are compared with; a suite has one of them."""
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


@dataclass(frozen=True)
class Comparison:
    """Changes of the cases that were compared, and a sentence for each suite or case that was not."""

    changes: list[Change]
    not_compared: list[str]


def compare(new: Path, old: Path) -> Comparison:
    """Compare the cases that both folders hold, read from ``<folder>/<device>/<suite>.json``.

    Raises:
        InputError: the new folder holds no results, or a file can't be read.
    """
    files = sorted(file for name in (*SUITES, STEP) for file in new.glob(f"*/{name}.json"))
    if not files:
        raise InputError(f"{new} holds no <device>/<suite>.json; write some with maris-fast bench run --out")
    found = Comparison([], [])
    for file in files:
        name = file.relative_to(new)
        if (old / name).is_file():
            one = compare_suites(load(file), load(old / name))
            found.changes.extend(one.changes)
            found.not_compared.extend(f"{name}: {told}" for told in one.not_compared)
        else:
            found.not_compared.append(f"{name}: {old} has no results of this device and suite")
    return found


def compare_suites(suite: Suite, earlier: Suite) -> Comparison:
    """Compare a suite's results with earlier ones of the same device."""
    if suite.suite == STEP and (now := _reference(suite)) != (before := _reference(earlier)):
        return Comparison([], [f"speeds are relative to {now}, before to {before}; run it the same way"])
    now_of, before_of = speedups(suite), speedups(earlier)
    changes = [
        Change(str(suite.environment["device"]), suite.suite, case, before_of[case], now)
        for case, now in now_of.items()
        if case in before_of
    ]
    problems = []
    if without := [f"{shape}: {part}" for shape, part in _without_plain(suite)]:
        problems.append(f"none of {', '.join(PLAIN)} was measured of {', '.join(without)}")
    if new := [case for case in now_of if case not in before_of]:
        problems.append(f"there is no earlier speedup of {', '.join(new)}")
    return Comparison(changes, problems)


def speedups(suite: Suite) -> dict[str, float]:
    """Speedup of each case over the plain implementation; of each row of ``step`` over its first row."""
    if suite.suite == STEP:
        rates = {row["name"]: median(row["expressions_per_s"]) for row in _measured(suite)}
        first = next(iter(rates.values()), 1.0)
        return {name: rate / first for name, rate in rates.items()}
    found: dict[str, float] = {}
    for (shape, part), case in cases_of(suite).items():
        plain = next((case[name]["ms"][MEDIAN] for name in PLAIN if name in case), None)
        if plain is not None:
            times = {impl: row["ms"][MEDIAN] for impl, row in case.items() if impl not in PLAIN}
            found |= {f"{shape}: {part} {impl}": plain / ms for impl, ms in times.items()}
    return found


def _without_plain(suite: Suite) -> list[tuple[str, str]]:
    if suite.suite == STEP:
        return []
    return [shape_part for shape_part, case in cases_of(suite).items() if not set(PLAIN) & case.keys()]


def _measured(suite: Suite) -> list[Row]:
    return [row for row in suite.rows if "left_out" not in row]


def _reference(suite: Suite) -> str:
    """What the rows of ``step`` are divided by: the first one, at its size."""
    first = next(iter(_measured(suite)), {})
    return f"the row {first.get('name')!r} at size {first.get('size')!r}"
