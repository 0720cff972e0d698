"""In this folder Triton's interpreter computes bfloat16 as a GPU does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from maris_fast.kernels.interpreted_bf16 import interpreter_computes_bf16
from maris_fast.kernels.mutual_attention.operator import INTERPRETED
from tests.kernels.bf16_interpreter import use_bf16_as_on_a_gpu


@pytest.fixture(autouse=True)
def bf16_in_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if INTERPRETED:
        use_bf16_as_on_a_gpu(monkeypatch)
    yield
    interpreter_computes_bf16.cache_clear()
