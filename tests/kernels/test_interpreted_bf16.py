"""What the interpreter makes of bfloat16, as released and in these tests."""

from __future__ import annotations

import pytest
import torch

from maris_fast.kernels import UnsupportedError, cross_attention, mutual_attention
from maris_fast.kernels.cross_attention.parity import Case, draw
from maris_fast.kernels.interpreted_bf16 import interpreter_computes_bf16
from maris_fast.kernels.mutual_attention.operator import INTERPRETED

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="of the interpreter")


def test_it_computes_bf16_in_these_tests() -> None:
    assert interpreter_computes_bf16()


def test_as_released_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    interpreter_computes_bf16.cache_clear()
    z = torch.ones(1, 4, 32, dtype=torch.bfloat16)
    with pytest.raises(UnsupportedError, match="interpreter multiplies bfloat16 wrongly"):
        mutual_attention(z, z, *[torch.ones(32)] * 4, impl="triton")
    leaves = draw(Case(C=32, dtype=torch.bfloat16)).leaves
    with pytest.raises(UnsupportedError, match="interpreter multiplies bfloat16 wrongly"):
        cross_attention(**leaves, impl="triton")
