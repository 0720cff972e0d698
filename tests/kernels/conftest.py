"""In this folder Triton's interpreter computes as a GPU does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from maris_fast.kernels.interpreter import interpreter_computes_bf16, interpreter_counts
from maris_fast.kernels.mutual_attention import operator
from maris_fast.kernels.mutual_attention.blocks import TMA_ROWS, Blocks, Walk
from tests.kernels.mended_interpreter import mend_interpreter


@pytest.fixture(autouse=True)
def mended_interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if operator.INTERPRETED:
        mend_interpreter(monkeypatch)
    yield
    interpreter_computes_bf16.cache_clear()
    interpreter_counts.cache_clear()


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every forward is the one for Hopper, with several tiles per program."""
    table = operator._blocks

    def with_tma(*call: object) -> Blocks:
        return replace(table(*call), forward=Walk(TMA_ROWS, 8, 3, programs=2))  # type: ignore[arg-type]

    monkeypatch.setattr(operator, "_blocks", with_tma)
