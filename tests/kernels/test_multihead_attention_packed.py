"""xformers with words as keys: what is passed to its kernels, which run only on a GPU.

Plain PyTorch replaces the kernel and reads what the kernel reads: the packed tensors and where the blocks
start on the device. Like the kernel, it leaves the gradient beyond the last block unwritten.
"""

from __future__ import annotations

import math
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from maris_fast.kernels.multihead_attention import memory_efficient
from maris_fast.kernels.multihead_attention.memory_efficient import (
    multihead_attention_xformers,
    packed,
    why_not_built,
)
from maris_fast.kernels.multihead_attention.parity import Inputs, Shape, draw
from maris_fast.kernels.multihead_attention.reference import multihead_attention_reference

xformers_ops = pytest.importorskip("xformers.ops")
CPU = torch.device("cpu")
ROOT = Path(__file__).parents[2]


class UnwrittenBehind(torch.autograd.Function):
    """Returns the keys of all blocks; the gradient of the rest is unwritten memory, here NaN."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, used: int) -> Tensor:
        ctx.shape = tensor.shape
        return tensor[:, :used]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        filled = torch.full(ctx.shape, torch.nan, dtype=gradients[0].dtype)
        filled[:, : gradients[0].shape[1]] = gradients[0]
        return filled, None


def kernel(q: Tensor, k: Tensor, v: Tensor, attn_bias: Any) -> Tensor:
    """Block-diagonal attention, [1, L, heads, d]."""
    queries, keys = (info.seqstart.tolist() for info in (attn_bias.q_seqinfo, attn_bias.k_seqinfo))
    assert max(b - a for a, b in pairwise(keys)) <= attn_bias.k_seqinfo.max_seqlen
    k, v = (UnwrittenBehind.apply(t, keys[-1]) for t in (k, v))
    blocks = [
        multihead_attention_reference(q[:, a:b], k[:, c:d], v[:, c:d], None)
        for (a, b), (c, d) in zip(pairwise(queries), pairwise(keys), strict=True)
    ]
    return torch.cat(blocks, dim=1)


def masks(B: int, L_k: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(L_k)
    scattered = torch.rand(B, L_k, generator=generator) < 0.5
    scattered[:, L_k // 2] = True
    return {
        "words first": torch.arange(L_k) < torch.linspace(1, L_k, B).round()[:, None],
        "all count": torch.ones(B, L_k, dtype=torch.bool),
        "one counts": F.one_hot(torch.arange(B) % L_k, L_k).bool(),
        "scattered": scattered,
    }


@pytest.mark.parametrize("L_k", [1, 2, 5, 16, 33, 77])
def test_packing_keeps_values_and_gradients(L_k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xformers_ops, "memory_efficient_attention", kernel)
    for L_q in (1, 19):
        drawn = draw(Shape(4, L_q, L_k, 2, 8, masked=False), CPU, torch.float64)
        for kind, key_mask in masks(4, L_k).items():
            got, needed = (
                outputs(function, Inputs(drawn.leaves, key_mask, drawn.gradient))
                for function in (multihead_attention_xformers, multihead_attention_reference)
            )
            for one, other in zip(got, needed, strict=True):
                torch.testing.assert_close(
                    one, other, rtol=0, atol=1e-12, msg=lambda m, kind=kind: f"{kind}: {m}"
                )


def outputs(function: Any, drawn: Inputs) -> list[Tensor]:
    out = function(*drawn.leaves, drawn.key_mask)
    return [out, *torch.autograd.grad(out, drawn.leaves, drawn.gradient)]


@pytest.mark.parametrize("L_k", [1, 7, 77])
def test_the_bias_is_the_dense_mask_of_the_packed_keys(L_k: int) -> None:
    B, L_q = 4, 3
    for key_mask in masks(B, L_k).values():
        # Each key encodes its row and its position in the row.
        k = (
            torch.stack(torch.meshgrid(torch.arange(B), torch.arange(L_k), indexing="ij"), 2)[:, :, None]
            + 1.0
        )
        (_, keys, _), bias = packed(torch.zeros(B, L_q, 1, 2), k, k, key_mask)
        counting = int(key_mask.sum())
        # xformers materializes from the host's copies, which packing omits.
        for info in (bias.q_seqinfo, bias.k_seqinfo):
            info.seqstart_py = info.seqstart.tolist()
        drawn = bias.materialize((B * L_q, counting))
        rows = keys[0, :counting, 0, 0] - 1
        same_row = torch.arange(B).repeat_interleave(L_q)[:, None] == rows
        assert torch.equal(drawn, torch.zeros_like(drawn).masked_fill(~same_row, -math.inf))
        assert torch.equal(keys[0, :counting, 0], k[key_mask][:, 0])
        assert not keys[0, counting:].any()


def flash_forward(q: Tensor, k: Tensor, v: Tensor, starts_q: Tensor, starts_k: Tensor, *_: Any) -> Any:
    """What xformers' operator for FlashAttention returns: the values, and two tensors for its backward."""
    bias = SimpleNamespace(
        q_seqinfo=SimpleNamespace(seqstart=starts_q),
        k_seqinfo=SimpleNamespace(seqstart=starts_k, max_seqlen=len(k)),
    )
    out = kernel(q[None], k[None], v[None], bias)[0]
    return out, q.new_zeros(q.shape[1], q.shape[0], dtype=torch.float32), torch.zeros(2, dtype=torch.int64)


@pytest.mark.slow
def test_under_torch_compile_one_graph_serves_all_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """xformers' own code is traced as on a GPU, forward and backward; it tells one row from several."""
    from torch._dynamo.testing import CompileCounter  # takes seconds
    from xformers.ops.fmha import flash

    for operation in (flash.FwOp, flash.BwOp):
        monkeypatch.setattr(operation, "SUPPORTED_DEVICES", {"cpu"})
    torch._dynamo.reset()
    compiles = CompileCounter()
    compiled = torch.compile(multihead_attention_xformers, fullgraph=True, dynamic=True, backend=compiles)
    shapes = ((3, 20, 5), (4, 31, 7), (2, 70, 40), (5, 64, 12), (9, 6, 33), (1, 20, 5), (1, 30, 9))
    with torch.library._scoped_library("xformers_flash", "IMPL") as library:
        library.impl("flash_fwd", flash_forward, "CPU")
        for B, L_q, L_k in shapes:
            q, k, v = draw(Shape(B, L_q, L_k, 2, 8, masked=False), CPU, torch.float16).leaves
            key_mask = masks(B, L_k)["words first"]
            found, needed = (of(q, k, v, key_mask) for of in (compiled, multihead_attention_xformers))
            assert torch.equal(found, needed)
    assert compiles.frame_count <= 2


def test_packing_reads_no_value_from_the_device() -> None:
    """Fake tensors have no values and would raise where a step had to wait for one."""
    with FakeTensorMode():
        q, k = torch.zeros(3, 8, 2, 4), torch.zeros(3, 5, 2, 4)
        (packed_q, packed_k, _), bias = packed(q, k, k, torch.ones(3, 5, dtype=torch.bool))
    assert (packed_q.shape, packed_k.shape) == ((1, 24, 2, 4), (1, 15, 2, 4))
    assert bias.k_seqinfo.seqstart.shape == (4,)


@pytest.mark.process
def test_the_pinned_xformers_loads_its_extension_into_the_pinned_pytorch() -> None:
    """In a process of its own: a failed import is not retried."""
    module = "maris_fast.kernels.multihead_attention.memory_efficient"
    code = f"from {module} import why_not_built; print(why_not_built())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.splitlines()[-1] == "None", done.stdout + done.stderr


def test_xformers_that_cannot_load_its_extension_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from xformers import _cpp_lib

    monkeypatch.setattr(_cpp_lib, "_built_with_cuda", True)
    assert why_not_built() is None
    build = _cpp_lib._BuildInfo({"version": {"torch": "1.2.3+cu456", "cuda": 456}})
    monkeypatch.setattr(_cpp_lib, "_built_with_cuda", False)
    monkeypatch.setattr(_cpp_lib, "_cpp_library_load_exception", _cpp_lib.xFormersInvalidLibException(build))
    reason = why_not_built()
    assert reason is not None
    assert "which was built for PyTorch 1.2.3+cu456, into PyTorch" in reason
    assert memory_efficient.why_unsupported(torch.device("cuda"), torch.float16, 32, True) == reason


@pytest.mark.parametrize("masked", [False, True])
def test_reasons_given_by_xformers_are_reported(masked: bool) -> None:
    """None of its kernels runs on CPU tensors."""
    reason = memory_efficient._why_refused(CPU, torch.float16, 32, masked)
    assert reason is not None
    assert "device=cpu (supported: {'cuda'})" in reason
