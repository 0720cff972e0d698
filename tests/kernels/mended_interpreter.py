"""Triton's interpreter with its faults fixed, for tests only.

As released, it stores bfloat16 as bit patterns, multiplies these (triton issue 11584), and truncates in casts
from fp32. Here PyTorch widens operands and rounds casts to nearest, and TF32 products drop the 13 bits that
tensor cores do not read. In Triton 3.6 it cannot loop up to a tensor under NumPy 2.4 and later (triton issue
9171); here it can. Masks must be boolean, as Triton requires from 3.9 on.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import triton.language as tl
from triton._C.libtriton import ir
from triton.runtime import interpreter
from triton.runtime.interpreter import InterpreterBuilder, TensorHandle, _get_np_dtype

from maris_fast.kernels.interpreter import interpreter_computes_bf16, interpreter_counts

TF32_BITS = np.uint32(0xFFFFE000)


def widened(bits: np.ndarray) -> np.ndarray:
    return torch.from_numpy(bits.view(np.int16).copy()).view(torch.bfloat16).float().numpy()


def rounded(values: np.ndarray) -> np.ndarray:
    """Bit patterns of fp32 values in bfloat16."""
    return torch.from_numpy(values.astype(np.float32)).bfloat16().view(torch.int16).numpy().view(np.uint16)


def is_bf16(handle: TensorHandle) -> bool:
    return handle.dtype.scalar == tl.bfloat16


def operand(handle: TensorHandle, precision: Any) -> TensorHandle:
    """What a product reads of ``handle``."""
    if is_bf16(handle):
        return TensorHandle(widened(handle.data), tl.float32)
    if handle.data.dtype == np.float32 and precision == ir.INPUT_PRECISION.TF32:
        bits = np.ascontiguousarray(handle.data).view(np.uint32) & TF32_BITS
        return TensorHandle(bits.view(np.float32), tl.float32)
    return handle


def require_boolean(mask: TensorHandle | np.ndarray) -> None:
    """Check the mask of a load or store; for a tensor descriptor, Triton 3.6 passes a bare array."""
    values = mask if isinstance(mask, np.ndarray) else mask.data
    assert values.dtype == np.bool_, f"a mask of {values.dtype}"


def mend_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fix the interpreter in this process until ``monkeypatch`` is undone."""
    cast, fp_to_fp = InterpreterBuilder.cast_impl, InterpreterBuilder.create_fp_to_fp
    dot, binary_op = InterpreterBuilder.create_dot, InterpreterBuilder.binary_op
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    patch = interpreter._patch_lang_tensor

    def patch_lang_tensor(tensor: Any, scope: Any) -> None:
        patch(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    def cast_impl(self: Any, src: TensorHandle, dst_type: Any) -> TensorHandle:
        wanted = dst_type.scalar
        if is_bf16(src) == (wanted == tl.bfloat16):
            return cast(self, src, dst_type)
        data = widened(src.data).astype(_get_np_dtype(wanted)) if is_bf16(src) else rounded(src.data)
        return TensorHandle(data, wanted)

    def create_fp_to_fp(self: Any, src: TensorHandle, dst_type: Any, rounding: Any) -> TensorHandle:
        if is_bf16(src) or dst_type.scalar == tl.bfloat16:
            return cast_impl(self, src, dst_type)
        return fp_to_fp(self, src, dst_type, rounding)

    def create_dot(self: Any, a: TensorHandle, b: TensorHandle, d: Any, precision: Any, *others: Any) -> Any:
        return dot(self, operand(a, precision), operand(b, precision), d, precision, *others)

    def checked_binary_op(self: Any, lhs: TensorHandle, rhs: TensorHandle, op: Any) -> TensorHandle:
        assert not is_bf16(lhs), "arithmetic in bfloat16 is not interpreted: compute in fp32 and cast"
        return binary_op(self, lhs, rhs, op)

    def checked_load(
        self: Any, ptrs: TensorHandle, mask: TensorHandle, *others: Any, **named: Any
    ) -> TensorHandle:
        require_boolean(mask)
        return load(self, ptrs, mask, *others, **named)

    def checked_store(
        self: Any, ptrs: TensorHandle, value: TensorHandle, mask: TensorHandle, *others: Any
    ) -> Any:
        require_boolean(mask)
        return store(self, ptrs, value, mask, *others)

    monkeypatch.setattr(InterpreterBuilder, "create_masked_load", checked_load)
    monkeypatch.setattr(InterpreterBuilder, "create_masked_store", checked_store)
    monkeypatch.setattr(InterpreterBuilder, "cast_impl", cast_impl)
    monkeypatch.setattr(InterpreterBuilder, "create_fp_to_fp", create_fp_to_fp)
    monkeypatch.setattr(InterpreterBuilder, "create_dot", create_dot)
    monkeypatch.setattr(InterpreterBuilder, "binary_op", checked_binary_op)
    monkeypatch.setattr(interpreter, "_patch_lang_tensor", patch_lang_tensor)
    interpreter_computes_bf16.cache_clear()
    interpreter_counts.cache_clear()
