"""In this folder Triton's interpreter computes as a GPU does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from maris_fast.kernels.interpreter import interpreter_computes_bf16, interpreter_counts
from maris_fast.kernels.mutual_attention.operator import INTERPRETED
from tests.kernels.mended_interpreter import mend_interpreter


@pytest.fixture(autouse=True)
def mended_interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if INTERPRETED:
        mend_interpreter(monkeypatch)
    yield
    interpreter_computes_bf16.cache_clear()
    interpreter_counts.cache_clear()
