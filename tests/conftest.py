"""Settings of all tests, and where they find real data."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
import torch
from hypothesis import settings

# Without a GPU the Triton kernels run in Triton's interpreter. Triton reads this when it is first imported,
# by whichever test comes first, so it has to be set here.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

# What this machine's user has proven says nothing here; nothing is in this folder, and no test writes there.
os.environ["MARIS_FAST_CERTIFICATES"] = str(
    Path(tempfile.gettempdir(), "maris-fast-tests", "no-certificates")
)

# Examples touch files; how long that takes says nothing on a busy machine.
settings.register_profile("maris", deadline=None)
settings.load_profile("maris")

TEST_DATA = "MARIS_FAST_TEST_DATA"


@pytest.fixture(scope="session")
def refmini() -> Path:
    """Root of a few real COCO images with RefCOCO and G-Ref expressions, in the published layout."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "data"
    root = Path(os.environ.get(TEST_DATA, beside)) / "refmini"
    if not root.is_dir():
        pytest.skip(f"no real data at {root}; set {TEST_DATA} to the folder that holds refmini")
    return root


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Background jobs of a shell ignore SIGINT, nohup's SIGHUP, and runs that tests start inherit that."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


@pytest.fixture(autouse=True)
def own_environment() -> Iterator[None]:
    """A run in this process names its rank in the environment, which is no other test's."""
    with mock.patch.dict(os.environ):
        yield
