"""Multi-head attention: loops against the reference, the reference against PyTorch's own."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from maris_fast.config import ModelSettings
from maris_fast.kernels import UnsupportedError, multihead_attention
from maris_fast.kernels.choice import text
from maris_fast.kernels.choice.table import forget, of_device
from maris_fast.kernels.multihead_attention import IMPLEMENTATIONS, candidates, chosen_impl, why_unsupported
from maris_fast.kernels.multihead_attention import api as multihead
from maris_fast.kernels.multihead_attention.candidates import OPERATION, Kind
from maris_fast.kernels.multihead_attention.parity import Shape, failures
from maris_fast.model.layers import MultiHeadAttention
from maris_fast.model.mask_decoder import MaskDecoder

CPU = torch.device("cpu")
ON_CPU: tuple[Any, ...] = ("sdpa", "sdpa-flash", "reference")


def inputs(
    L_q: int = 5, L_k: int = 7, heads: int = 2, d: int = 4, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(L_q + L_k)
    q, k, v = (
        torch.randn(3, length, heads, d, generator=generator, dtype=torch.float64).to(dtype)
        for length in (L_q, L_k, L_k)
    )
    return q, k, v, torch.arange(L_k) < torch.tensor([L_k, 1, 3])[:, None]


def loops(q: np.ndarray, k: np.ndarray, v: np.ndarray, key_mask: np.ndarray) -> np.ndarray:
    """softmax(Q Kᵀ / √d) V, one query and one head at a time."""
    out = np.zeros_like(q)
    for b, i, h in np.ndindex(q.shape[:3]):
        keys = [j for j in range(k.shape[1]) if key_mask[b, j]]
        weights = [math.exp(float(q[b, i, h] @ k[b, j, h]) / math.sqrt(q.shape[3])) for j in keys]
        for j, weight in zip(keys, weights, strict=True):
            out[b, i, h] += weight / sum(weights) * v[b, j, h]
    return out


@pytest.mark.parametrize("impl", ON_CPU)
@pytest.mark.parametrize("masked", [False, True])
def test_the_equation_query_by_query(impl: Any, masked: bool) -> None:
    q, k, v, key_mask = inputs()
    needed = loops(
        q.numpy(), k.numpy(), v.numpy(), (key_mask if masked else torch.ones_like(key_mask)).numpy()
    )
    got = multihead_attention(q, k, v, key_mask if masked else None, impl=impl)
    assert got.shape == q.shape
    np.testing.assert_allclose(got, needed, rtol=0, atol=1e-12)


@pytest.mark.parametrize("impl", ON_CPU)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("masked", [False, True])
def test_values_and_gradients_are_the_references(impl: Any, dtype: torch.dtype, masked: bool) -> None:
    for L_q, L_k, head_dim in ((1, 1, 32), (37, 20, 16), (64, 77, 64), (20, 5, 128)):
        assert failures(impl, Shape(3, L_q, L_k, 4, head_dim, masked), CPU, dtype) == []


@pytest.mark.parametrize(
    "wrong",
    [
        lambda q, k, v, m: multihead_attention(q, k, v, None, "sdpa"),
        lambda q, k, v, m: multihead_attention(q, k, v, m.roll(1, 1), "sdpa"),
        lambda q, k, v, m: multihead_attention(1.01 * q, k, v, m, "sdpa"),
        lambda q, k, v, m: multihead_attention(q, k, v.roll(1, 2), m, "sdpa"),
        lambda q, k, v, m: multihead_attention(q, k.detach(), v, m, "sdpa") + 0 * k.sum(),
        lambda q, k, v, m: multihead_attention(q, k, v, m, "sdpa") * torch.nan,
    ],
    ids=["no mask", "another mask", "scale", "another head", "no gradient", "nan"],
)
def test_the_proof_catches_a_wrong_implementation(wrong: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Shape(3, 37, 20, 4, 32, masked=True)
    assert failures("sdpa-flash", shape, CPU, torch.float32) == []
    monkeypatch.setitem(IMPLEMENTATIONS, "sdpa-flash", wrong)
    assert failures("sdpa-flash", shape, CPU, torch.float32) != []


@pytest.mark.parametrize("impl", ON_CPU)
def test_gradients_are_the_derivatives(impl: Any) -> None:
    q, k, v, key_mask = inputs()
    leaves = tuple(t.requires_grad_() for t in (q, k, v))
    assert torch.autograd.gradcheck(lambda q, k, v: multihead_attention(q, k, v, key_mask, impl), leaves)


@pytest.mark.parametrize("impl", ON_CPU)
def test_a_masked_key_changes_nothing(impl: Any) -> None:
    q, k, v, key_mask = inputs()
    loud_k, loud_v = (t.masked_fill(~key_mask[:, :, None, None], 1e3) for t in (k, v))
    torch.testing.assert_close(
        multihead_attention(q, loud_k, loud_v, key_mask, impl), multihead_attention(q, k, v, key_mask, impl)
    )


def test_a_backend_asked_for_by_name_on_cpu_raises() -> None:
    q, k, v, _ = inputs(dtype=torch.float32)
    with pytest.raises(
        UnsupportedError, match="no attention for cpu tensors; use impl='sdpa' or 'reference'"
    ):
        multihead_attention(q, k, v, impl="xformers")
    for impl in ("sdpa-cudnn", "sdpa-efficient"):
        with pytest.raises(
            UnsupportedError, match=f"{impl} refuses torch.float32 on cpu, head dim 4, without a mask: "
        ):
            multihead_attention(q, k, v, impl=impl)  # type: ignore[arg-type]


def test_a_named_backend_is_the_one_that_runs() -> None:
    q, k, v, key_mask = inputs(dtype=torch.float32)
    for impl, kernel in (("sdpa-flash", "flash_attention"), ("reference", "softmax")):
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
            multihead_attention(q, k, v, key_mask, impl)  # type: ignore[arg-type]
        assert any(kernel in event.key for event in profile.key_averages())


def test_auto_on_cpu_is_pytorchs_own() -> None:
    kinds = [Kind("float32", 8, d, 64, 64, m, True) for d in (32, 64, 128) for m in (False, True)]
    assert {chosen_impl(kind, CPU) for kind in kinds} == {"sdpa"}


@pytest.mark.parametrize(("xformers_runs", "chosen"), [(True, "xformers"), (False, "sdpa")])
def test_auto_on_an_unmeasured_gpu_is_xformers_where_it_runs(
    xformers_runs: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(impl: str, *_: object) -> str | None:
        return "no" if impl == "xformers" and not xformers_runs else None

    monkeypatch.setattr(candidates, "why_unsupported", refuses)
    monkeypatch.setattr(multihead, "chosen", lambda *_: None)
    kind = Kind("bfloat16", 8, 32, 4096, 64, True, True)
    assert chosen_impl(kind, torch.device("cuda")) == chosen
    every = candidates.candidates(kind, torch.device("cuda"))
    assert every[0] == chosen
    absent = {"reference", "sdpa-cudnn"} if xformers_runs else {"reference", "sdpa-cudnn", "xformers"}
    assert {*every} == {*IMPLEMENTATIONS} - absent


@pytest.fixture
def proven() -> Iterator[None]:
    """A certificate for one kind of call."""
    kind = Kind("float32", heads=2, head_dim=32, queries=64, keys=64, masked=True, gradient=False)
    found = {text(kind): {"chosen": "sdpa-flash", "results": {}}}
    of_device(CPU).take({OPERATION.name: found}, {OPERATION.name: OPERATION.sources_hash()})
    yield
    forget()


@pytest.mark.usefixtures("proven")
def test_what_was_proven_fastest_reaches_the_calls_of_its_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[int, int]] = []
    flash = IMPLEMENTATIONS["sdpa-flash"]

    def recorded(q: Tensor, k: Tensor, v: Tensor, key_mask: Tensor | None) -> Tensor:
        called.append((q.shape[1], k.shape[1]))
        return flash(q, k, v, key_mask)

    monkeypatch.setitem(IMPLEMENTATIONS, "sdpa-flash", recorded)
    for L_q, L_k in ((5, 5), (64, 7), (65, 7), (64, 65)):
        q, k = torch.randn(2, L_q, 2, 32), torch.randn(2, L_k, 2, 32)
        key_mask = torch.ones(2, L_k, dtype=torch.bool)
        multihead_attention(q, k, k, key_mask)
        multihead_attention(q, k, k)
        multihead_attention(q, k, k.requires_grad_(), key_mask)
        multihead_attention(q[:, :, :1], k[:, :, :1].detach(), k[:, :, :1].detach(), key_mask)
    assert called == [(5, 5), (64, 7)]


@pytest.mark.slow
@pytest.mark.parametrize("impl", ["auto", *ON_CPU])
@pytest.mark.parametrize("dynamic", [False, True])
def test_torch_compile_takes_it_whole(impl: Any, dynamic: bool) -> None:
    q, k, v, key_mask = (t.requires_grad_(t.is_floating_point()) for t in inputs(dtype=torch.float32))
    why_unsupported_is_not_known_yet()

    def operation(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return 2 * multihead_attention(q, k, v, key_mask, impl)

    torch._dynamo.reset()
    compiled = torch.compile(operation, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for got, needed in zip(
        *(
            [out, *torch.autograd.grad(out.square().sum(), (q, k, v))]
            for out in (compiled(q, k, v), operation(q, k, v))
        ),
        strict=True,
    ):
        torch.testing.assert_close(got, needed)


def why_unsupported_is_not_known_yet() -> None:
    """Restore the state at a program's first call, which may be a compiled one."""
    from maris_fast.kernels.multihead_attention import sdpa

    sdpa.why_unsupported.cache_clear()


def test_the_mask_decoder_attends_through_this_operation_alone() -> None:
    settings = ModelSettings(channels=32, heads=4, decoder_blocks=2, attention_impl="sdpa-flash")
    decoder = MaskDecoder(settings)
    attentions = [module for module in decoder.modules() if isinstance(module, MultiHeadAttention)]
    assert len(attentions) == 3 * 2
    assert {module.impl for module in attentions} == {"sdpa-flash"}
    assert not any(isinstance(module, torch.nn.MultiheadAttention) for module in decoder.modules())


GPU_CASES = [
    *(Shape(3, 64, L_k, 4, head_dim, True) for L_k in range(1, 78, 4) for head_dim in (32, 64, 128)),
    *(Shape(1, L_q, 77, 2, 32, True) for L_q in (1, 33, 4096)),
    *(Shape(2, 300, 300, 4, head_dim, False) for head_dim in (32, 64, 128)),
]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_on_a_gpu_values_and_gradients_are_the_references(impl: Any, dtype: torch.dtype) -> None:
    """Rows of one key, of all keys, and in between; an implementation that refuses a case gives a reason."""
    device = torch.device("cuda")
    refused: set[str] = set()
    for shape in GPU_CASES:
        reason = why_unsupported(impl, device, dtype, shape.head_dim, shape.masked)
        if reason is not None:
            refused.add(reason)
            continue
        assert failures(impl, shape, device, dtype) == [], shape
    if refused:
        pytest.skip("; ".join(sorted(refused)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(3, 5, 8)}, "expected \\[B, L_q, heads, d\\]"),
        ({"k": torch.zeros(3, 6, 2, 4)}, "twice \\[B, L_k, heads, d\\]"),
        ({"q": torch.zeros(2, 5, 2, 4)}, "twice \\[B, L_k, heads, d\\]"),
        ({"key_mask": torch.ones(3, 5, dtype=torch.bool)}, "expected bool \\(3, 7\\)"),
        ({"key_mask": torch.ones(3, 7)}, "expected bool \\(3, 7\\)"),
        ({"impl": "flash"}, "auto, xformers, sdpa, sdpa-flash, sdpa-cudnn, sdpa-efficient, sdpa-flash3"),
    ],
)
def test_bad_input_says_what_came_and_what_is_needed(change: dict[str, Any], message: str) -> None:
    q, k, v, _ = inputs(dtype=torch.float32)
    with pytest.raises(ValueError, match=message):
        multihead_attention(**{"q": q, "k": k, "v": v, **change})
