"""Settings of all tests, handling of their marks, and the location of real data."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

# Tests compute so little that a second thread mostly waits, and two workers share the cores. PyTorch reads
# this when it is first imported, here and in every process that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

# Without a GPU the Triton kernels run in Triton's interpreter. Triton reads this when it is first imported,
# by whichever test comes first, so it has to be set here.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A pytest that a test starts is not an xdist worker; these would make pytest-benchmark take it for one.
for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
    del os.environ[name]

# The user's own certificates must not affect tests: this folder is empty, and no test writes to it.
os.environ["MARIS_FAST_CERTIFICATES"] = str(
    Path(tempfile.gettempdir(), "maris-fast-tests", "no-certificates")
)

# Examples access files; how long that takes means nothing on a busy machine.
settings.register_profile("maris", deadline=None)
settings.load_profile("maris")

TEST_DATA = "MARIS_FAST_TEST_DATA"

PYTHONS = ("python", "deepspeed", "torchrun", "maris-fast")
"""Programs that start Python; importing PyTorch takes seconds."""


@pytest.fixture(scope="session")
def refmini() -> Path:
    """Root of a few real COCO images with RefCOCO and G-Ref expressions, in the published layout."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    root = Path(os.environ.get(TEST_DATA, beside)) / "refmini"
    if not root.is_dir():
        pytest.skip(f"no real data at {root}; set {TEST_DATA} to the folder that holds refmini")
    return root


MARKS_OF_FIXTURES = {"refmini": "real_data", "mutant_of": "mutant"}
"""Marks that the tests get that use a fixture, directly or through another one."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture, mark in MARKS_OF_FIXTURES.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(mark)
    # Workers get files in this order; with short files last, they finish at about the same time.
    marks = ("slow", "process", "interpreter")
    long = [{item.path for item in items if item.get_closest_marker(mark)} for mark in marks]
    items.sort(key=lambda item: [item.path not in files for files in long])


def pytest_configure(config: pytest.Config) -> None:
    if "not process" not in config.option.markexpr:
        return

    def starts_python(event: str, arguments: tuple[Any, ...]) -> None:
        if event != "subprocess.Popen" or "PYTEST_CURRENT_TEST" not in os.environ:
            return
        words = arguments[1] if isinstance(arguments[1], list | tuple) else [arguments[1]]
        program, *others = map(os.fsdecode, words)
        if Path(program).name.startswith(PYTHONS) or sys.executable in others:
            pytest.fail(f"starts {program} {others}: mark it `process`, which `make check` leaves out")

    sys.addaudithook(starts_python)


INTERRUPTS = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}


def heeded() -> list[str]:
    """Names of signals that were ignored, which child processes would inherit, and that no longer are."""
    ignored = [number for number in INTERRUPTS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, INTERRUPTS[number])
    return [number.name for number in ignored]


def pytest_sessionstart() -> None:
    """Background jobs of a shell ignore SIGINT, and commands under nohup SIGHUP."""
    heeded()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    if left := heeded():
        pytest.fail(f"leaves {' and '.join(left)} ignored for the tests after it")


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """Restore the environment after each test: a run in this process sets its rank there."""
    with mock.patch.dict(os.environ):
        yield
