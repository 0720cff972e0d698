"""docs/reliability.md names a test for each fault: these tests exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_test_that_the_document_names_is_there() -> None:
    document = (ROOT / "docs" / "reliability.md").read_text()
    named = set(re.findall(r"\b(test_\w+)\b", document))
    files = list((ROOT / "tests").rglob("test_*.py"))
    there = {path.stem for path in files}
    there |= {name for path in files for name in re.findall(r"^\s*def (test_\w+)", path.read_text(), re.M)}
    assert len(named) > 100
    assert not named - there


def test_every_fault_has_a_test() -> None:
    rows = [
        line
        for line in (ROOT / "docs" / "reliability.md").read_text().splitlines()
        if line.startswith("| ") and not line.startswith("| fault ")
    ]
    assert rows
    without = [row for row in rows if not re.search(r"\btest_\w+", row.rsplit("|", 2)[1])]
    assert not without
