"""Faults of the interpreter: present as released, fixed in these tests."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from triton.runtime import interpreter

from maris_fast.kernels import UnsupportedError, cross_attention, mutual_attention
from maris_fast.kernels.cross_attention.parity import Case, draw
from maris_fast.kernels.interpreter import interpreter_computes_bf16, interpreter_counts
from maris_fast.kernels.mutual_attention.operator import INTERPRETED

pytestmark = pytest.mark.skipif(not INTERPRETED, reason="of the interpreter")


def test_it_computes_bf16_in_these_tests() -> None:
    assert interpreter_computes_bf16()


def test_it_counts_in_these_tests() -> None:
    assert interpreter_counts()


def test_one_that_cannot_count_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def patched(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        # Like NumPy 2.4, which refuses to convert a one-dimensional array to a number.
        scope.set_attr(tensor, "__index__", lambda self: operator.index(self.handle.data.tolist()))

    patch = interpreter._patch_lang_tensor
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patched)
    interpreter_counts.cache_clear()
    z = torch.ones(1, 4, 32)
    said = "can't run loops with this NumPy .*install triton>=3.7 or numpy<2.4"
    with pytest.raises(UnsupportedError, match=said):
        mutual_attention(z, z, *[torch.ones(32)] * 4, impl="triton")
    with pytest.raises(UnsupportedError, match=said):
        cross_attention(**draw(Case(C=32)).leaves, impl="triton")


def test_as_released_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    interpreter_computes_bf16.cache_clear()
    interpreter_counts.cache_clear()
    if not interpreter_counts():
        pytest.skip("with this NumPy the interpreter is refused for its loops")
    z = torch.ones(1, 4, 32, dtype=torch.bfloat16)
    with pytest.raises(UnsupportedError, match="interpreter multiplies bfloat16 wrongly"):
        mutual_attention(z, z, *[torch.ones(32)] * 4, impl="triton")
    leaves = draw(Case(C=32, dtype=torch.bfloat16)).leaves
    with pytest.raises(UnsupportedError, match="interpreter multiplies bfloat16 wrongly"):
        cross_attention(**leaves, impl="triton")
