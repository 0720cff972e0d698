"""Settings of all tests, and where they find real data."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from hypothesis import settings

# Without a GPU the Triton kernels run in Triton's interpreter. Triton reads this when it is first imported,
# by whichever test comes first, so it has to be set here.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")

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
