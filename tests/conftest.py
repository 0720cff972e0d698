"""Settings of all tests, what their marks mean, and where they find real data."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

# What tests compute is so small that a second thread mostly waits, and two workers share the cores. Read when
# PyTorch is first imported, here and in every process that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch
from hypothesis import settings

# Without a GPU the Triton kernels run in Triton's interpreter. Triton reads this when it is first imported,
# by whichever test comes first, so it has to be set here.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# A pytest that a test starts is no worker of this one; pytest-benchmark would take it for one by these.
for name in [name for name in os.environ if name.startswith("PYTEST_XDIST_")]:
    del os.environ[name]

# What this machine's user has proven says nothing here; nothing is in this folder, and no test writes there.
os.environ["MARIS_FAST_CERTIFICATES"] = str(
    Path(tempfile.gettempdir(), "maris-fast-tests", "no-certificates")
)

# Examples touch files; how long that takes says nothing on a busy machine.
settings.register_profile("maris", deadline=None)
settings.load_profile("maris")

TEST_DATA = "MARIS_FAST_TEST_DATA"

PYTHONS = ("python", "deepspeed", "torchrun", "maris-fast")
"""Programs that start Python, which imports PyTorch for seconds."""


@pytest.fixture(scope="session")
def refmini() -> Path:
    """Root of a few real COCO images with RefCOCO and G-Ref expressions, in the published layout."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    root = Path(os.environ.get(TEST_DATA, beside)) / "refmini"
    if not root.is_dir():
        pytest.skip(f"no real data at {root}; set {TEST_DATA} to the folder that holds refmini")
    return root


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "refmini" in getattr(item, "fixturenames", ()):
            item.add_marker("real_data")
    # Files go to the workers in this order, and short ones at the end let these end together.
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
    """Signals that were ignored here, which runs that tests start would inherit, and no longer are."""
    ignored = [number for number in INTERRUPTS if signal.getsignal(number) is signal.SIG_IGN]
    for number in ignored:
        signal.signal(number, INTERRUPTS[number])
    return [number.name for number in ignored]


def pytest_sessionstart() -> None:
    """Background jobs of a shell ignore SIGINT, nohup's SIGHUP."""
    heeded()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown() -> None:
    if left := heeded():
        pytest.fail(f"leaves {' and '.join(left)} ignored for the tests after it")


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """A run in this process names its rank in the environment, which is no other test's."""
    with mock.patch.dict(os.environ):
        yield
