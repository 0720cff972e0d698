"""Results as human-readable files: bench/results/<device>/<suite>.json, one row per case.

Device, versions and commit are given once at the top; a row has the measurements and their conditions.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maris_fast.errors import InputError
from maris_fast.system.files import replace_text

BENCH = Path(__file__).resolve().parent
ROOT = BENCH.parent
SUITE_FILES = BENCH / "suites"
"""Only in a clone; the wheel has no tests."""
SUITES = tuple(sorted(file.stem.removeprefix("test_") for file in SUITE_FILES.glob("test_*.py")))

Row = dict[str, Any]


@dataclass(frozen=True)
class Suite:
    """The rows of one suite on one device, from one run.

    Attributes:
        dirty: the code differed from the commit.
        complete: the run measured all rows, not a choice of them.
    """

    suite: str
    date: str
    commit: str | None
    dirty: bool
    environment: dict[str, Any]
    rows: list[Row]
    complete: bool = True

    @classmethod
    def now(cls, suite: str, environment: dict[str, Any], rows: list[Row]) -> Suite:
        """A suite of rows measured just now; ``environment`` comes from ``train.environment``."""
        commit, dirty = commit_and_dirty(environment)
        environment = {name: value for name, value in environment.items() if name != "commit"}
        return cls(suite, datetime.now(UTC).isoformat(timespec="seconds"), commit, dirty, environment, rows)

    def file(self, folder: Path) -> Path:
        """<folder>/<device>/<suite>.json"""
        return folder / device_folder(self.environment) / f"{self.suite}.json"

    def save(self, folder: Path) -> Path:
        """Write ``self.file(folder)`` atomically; return its path."""
        file = self.file(folder)
        file.parent.mkdir(parents=True, exist_ok=True)
        head = {name: value for name, value in vars(self).items() if name != "rows"}
        lines = [
            f" {json.dumps(name)}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items()
        ]
        rows = ",\n".join(f"  {json.dumps(row, ensure_ascii=False)}" for row in self.rows)
        replace_text(file, ["{\n" + ",\n".join(lines) + ',\n "rows": [\n' + rows + "\n ]\n}\n"])
        return file


def load(file: Path) -> Suite:
    """Read a suite's file.

    Raises:
        InputError: no such file, or not one of a suite.
    """
    try:
        return Suite(**json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file} holds no benchmark results ({error})") from error


def read_json(file: Path) -> Any:
    """The content of a JSON file.

    Raises:
        InputError: no such file, or not JSON.
    """
    try:
        return json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as results: {error}") from error


def device_folder(environment: dict[str, Any]) -> str:
    """The folder of a device's results: its name in lower case with dashes."""
    return str(environment["device"]).lower().replace(" ", "-")


def named(suite: Suite) -> str:
    """The suite and its device, as a key for plots."""
    return f"{suite.suite} {suite.environment['device']}"


def commit_and_dirty(environment: dict[str, Any]) -> tuple[str | None, bool]:
    """The commit measured, and whether code differed from it. Results and documents do not count."""
    commit = environment["commit"]
    if commit is None:
        return None, False
    command = ["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"]
    command += ["--", ".", ":!bench/results", ":!docs", ":!*.md"]
    changed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return str(commit).removesuffix("-dirty"), bool(changed.strip())
