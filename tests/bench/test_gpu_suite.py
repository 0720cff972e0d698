"""A rehearsal of the GPU suite: all parts run, but tests are only collected and commands only print help."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from maris_fast.bench.results import ROOT, SUITES

SCRIPT = ROOT / "bench" / "gpu_suite.sh"
PARTS = re.findall(r"\w+", re.findall(r"^(first.*)\) ;;$", SCRIPT.read_text(), re.MULTILINE)[0])

# Stands in for Python on the GPU machine, and records its arguments.
PYTHON = """#!/usr/bin/env bash
echo "$*" >>"$HEARD"
case "$1 ${2:-}" in
"- ") exec cat >/dev/null ;;
"-m pytest") printf '%s\\0' "${@:3}" >>"$HEARD.$(wc -l <"$HEARD").pytest"; exit "${ENDS:-0}" ;;
"-m maris_fast."*) exec "$REAL" "$@" --help ;;
esac
echo "nobody expected python $*" >&2
exit 1
"""
# --tool TOOL --error-exitcode CODE --kernel-regex REGEX, then the command.
SANITIZER = """#!/usr/bin/env bash
shift 6
exec "$@"
"""


# All calls in one process, so that PyTorch and the tests are imported only once.
COLLECT_EACH = """
import json, sys, pytest

class NoMutants:
    def pytest_collection_finish(self, session):
        found = [item.nodeid for item in session.items if "mutant_of" in item.fixturenames]
        if found:
            pytest.exit(f"{len(found)} mutants, such as {found[0]}", 1)

for words in json.loads(sys.argv[1]):
    if status := pytest.main(["--collect-only", "-p", "no:cacheprovider", *words], plugins=[NoMutants()]):
        sys.exit(f"pytest {words} ends with {status!r}")
"""


def run_part(part: str, folder: Path, pytest_ends: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a part of the suite; ``folder`` gets a line per Python call, and a file per pytest call."""
    for name, text in (("python", PYTHON), ("compute-sanitizer", SANITIZER)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    own = {
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": str(folder / "python"),
        "REAL": sys.executable,
        "OUT": str(folder / "out"),
        "HEARD": str(folder / part),
        "ENDS": str(pytest_ends),
    }
    return subprocess.run(
        ["bash", SCRIPT, part], env={**os.environ, **own}, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def heard(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the arguments of each part's Python calls."""
    folder = tmp_path_factory.mktemp("gpu_suite")
    for part in PARTS:
        done = run_part(part, folder)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return folder


@pytest.mark.process
@pytest.mark.parametrize("part", PARTS)
def test_a_part_finds_its_commands(heard: Path, part: str) -> None:
    first, *commands = (heard / part).read_text().splitlines()
    assert first == "-"
    assert commands
    if part == "sanitizer":
        # Python, and with it PyTorch, starts once per tool.
        assert len(commands) == 4
    suites = [suite for command in commands for suite in re.findall(r" bench run (.*) --out", command)]
    assert set(" ".join(suites).split()) <= set(SUITES)


@pytest.mark.process
@pytest.mark.parametrize(("part", "calls"), [("parity", 2), ("sanitizer", 4)])
def test_tests_that_fail_stop_no_others_and_fail_their_part(tmp_path: Path, part: str, calls: int) -> None:
    assert run_part(part, tmp_path, pytest_ends=3).returncode == 3
    assert len(list(tmp_path.glob("*.pytest"))) == calls


@pytest.mark.process
def test_every_part_finds_its_tests_and_no_mutants(heard: Path) -> None:
    calls = {file.read_text() for file in heard.glob("*.pytest")}
    assert len(calls) == 3  # the tools of the sanitizer run the same tests
    words = json.dumps([call.removesuffix("\0").split("\0") for call in sorted(calls)])
    command = [sys.executable, "-c", COLLECT_EACH, words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


def test_the_workflow_names_parts_that_there_are() -> None:
    (listed,) = re.findall(r"part: \[(.*)\]", (ROOT / ".github" / "workflows" / "gpu.yml").read_text())
    assert set(listed.split(", ")) <= set(PARTS)


@pytest.mark.process
def test_an_unknown_part_is_refused_with_the_known_ones() -> None:
    done = subprocess.run(["bash", SCRIPT, "everything"], capture_output=True, text=True)
    assert done.returncode == 2
    assert all(f"gpu_suite.sh {part}" in done.stdout for part in PARTS)
