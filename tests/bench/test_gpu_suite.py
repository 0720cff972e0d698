"""A rehearsal of the GPU suite: every part as it is, but tests are only collected and commands only told."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from maris_fast.bench.results import ROOT, SUITES

SCRIPT = ROOT / "bench" / "gpu_suite.sh"
PARTS = re.findall(r"\w+", re.findall(r"^(first.*)\) ;;$", SCRIPT.read_text(), re.MULTILINE)[0])

# Stands for Python on the GPU's machine, and writes down what it was given. What it was given before is not
# collected again: each tool of the sanitizer runs the same tests.
PYTHON = """#!/usr/bin/env bash
before=$(grep -cxF -- "$*" "$HEARD" || true)
echo "$*" >>"$HEARD"
[[ ${before:-0} == 0 ]] || exit 0
case "$1 ${2:-}" in
"- ") exec cat >/dev/null ;;
"-m pytest") exec "$REAL" -m pytest --collect-only "${@:3}" ;;
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


@pytest.mark.process
@pytest.mark.parametrize("part", PARTS)
def test_a_part_finds_its_tests_and_commands(part: str, tmp_path: Path) -> None:
    for name, text in (("python", PYTHON), ("compute-sanitizer", SANITIZER)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    heard = tmp_path / "heard"
    own = {
        "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}",
        "PYTHON": str(tmp_path / "python"),
        "REAL": sys.executable,
        "HEARD": str(heard),
        "OUT": str(tmp_path / "out"),
    }
    done = subprocess.run(
        ["bash", SCRIPT, part], env={**os.environ, **own}, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    first, *commands = heard.read_text().splitlines()
    assert first == "-"
    assert commands
    if part == "sanitizer":
        # Python, and with it PyTorch, starts once a tool.
        assert len(commands) == 4
    suites = [suite for command in commands for suite in re.findall(r" bench run (.*) --out", command)]
    assert set(" ".join(suites).split()) <= set(SUITES)


def test_the_workflow_names_parts_that_there_are() -> None:
    (listed,) = re.findall(r"part: \[(.*)\]", (ROOT / ".github" / "workflows" / "gpu.yml").read_text())
    assert set(listed.split(", ")) <= set(PARTS)


@pytest.mark.process
def test_an_unknown_part_is_told_which_there_are() -> None:
    done = subprocess.run(["bash", SCRIPT, "everything"], capture_output=True, text=True)
    assert done.returncode == 2
    assert all(f"gpu_suite.sh {part}" in done.stdout for part in PARTS)
