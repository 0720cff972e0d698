"""FlashAttention 3 and 4 under PyTorch's SDPA, replaced by a stand-in, as no package here provides them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.attention import _registry as registry

from maris_fast.kernels import UnsupportedError, multihead_attention
from maris_fast.kernels.multihead_attention import candidates, why_unsupported
from maris_fast.kernels.multihead_attention.newer_flash import VERSIONS
from maris_fast.kernels.multihead_attention.newer_flash import why_unsupported as small_call
from maris_fast.kernels.multihead_attention.parity import Shape, failures

CPU = torch.device("cpu")
IMPLS: tuple[Any, ...] = tuple(VERSIONS)
ATEN = "_scaled_dot_product_flash_attention"
MODULES = {"sdpa-flash3": "flash_attn_interface", "sdpa-flash4": "flash_attn"}


def plain(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    S = q @ k.transpose(2, 3) / math.sqrt(q.shape[3])
    return S.softmax(3) @ v, S.logsumexp(3)


class StandIn:
    """What a provider registers, for CPU tensors and in plain PyTorch; records its calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.kernels: torch.library.Library | None = None

    def __call__(self) -> StandIn:
        self.kernels = torch.library.Library("aten", "IMPL", "CPU")
        self.kernels.impl(ATEN, self.forward, "CPU")
        self.kernels.impl(f"{ATEN}_backward", self.backward, "CPU")
        return self

    def remove(self) -> None:
        assert self.kernels is not None
        self.kernels._destroy()
        self.kernels = None

    def forward(self, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> tuple[Any, ...]:
        self.calls.append("forward")
        out, lse = plain(q, k, v)
        none = torch.empty(0, dtype=torch.int64)
        return out, lse, none, none, q.shape[2], k.shape[2], none, none, out.new_empty(0)

    def backward(self, grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> tuple[Any, ...]:
        self.calls.append("backward")
        scale = 1 / math.sqrt(q.shape[3])
        A = (q @ k.transpose(2, 3) * scale).softmax(3)
        dA = grad @ v.transpose(2, 3)
        dS = A * (dA - (A * dA).sum(3, keepdim=True)) * scale
        return dS @ k, dS.transpose(2, 3) @ q, A.transpose(2, 3) @ grad


Provided = tuple[Any, StandIn]


@pytest.fixture(params=IMPLS)
def provided(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provided]:
    stand_in = StandIn()
    monkeypatch.setitem(registry._FLASH_ATTENTION_IMPLS, VERSIONS[request.param], stand_in)
    small_call.cache_clear()
    yield request.param, stand_in
    small_call.cache_clear()


def test_forward_and_backward_are_those_of_the_version_put_in_place(provided: Provided) -> None:
    impl, stand_in = provided
    assert failures(impl, Shape(2, 37, 11, 3, 8, masked=False), CPU, torch.float32) == []
    assert stand_in.calls == ["forward", "backward"]
    # PyTorch's own is restored.
    assert (registry.current_flash_attention_impl(), stand_in.kernels) == (None, None)


def test_one_that_was_in_place_before_is_so_again(provided: Provided) -> None:
    impl, _ = provided
    registry.register_flash_attention_impl("another", register_fn=StandIn())
    registry.activate_flash_attention_impl("another")
    try:
        q = torch.randn(1, 5, 2, 8)
        multihead_attention(q, q, q, impl=impl)
        assert registry.current_flash_attention_impl() == "another"
    finally:
        registry.restore_flash_attention_impl()
        del registry._FLASH_ATTENTION_IMPLS["another"]


def test_it_is_a_candidate_where_a_small_call_succeeds(
    provided: Provided, monkeypatch: pytest.MonkeyPatch
) -> None:
    impl, _ = provided
    # Support is checked on this CPU; only the list of candidates is a GPU's.
    monkeypatch.setattr(candidates, "why_unsupported", lambda impl, _, *of: why_unsupported(impl, CPU, *of))
    for masked in (False, True):
        kind = candidates.Kind("float32", 8, 32, 64, 64, masked, True)
        found = candidates.candidates(kind, torch.device("cuda"))
        assert {*IMPLS} & {*found} == ({impl} if not masked else set())


def test_under_torch_compile_it_is_one_operator(provided: Provided) -> None:
    impl, stand_in = provided
    q = torch.randn(2, 9, 2, 8, requires_grad=True)
    options: Any = {"fullgraph": True, "backend": "aot_eager"}
    call = torch.compile(lambda q: multihead_attention(q, q, q, impl=impl), **options)
    (got,) = torch.autograd.grad(call(q).square().sum(), q)
    (needed,) = torch.autograd.grad(multihead_attention(q, q, q, impl="reference").square().sum(), q)
    torch.testing.assert_close(got, needed)
    assert stand_in.calls[-2:] == ["forward", "backward"]


@pytest.mark.parametrize("impl", IMPLS)
def test_without_its_package_it_is_refused_by_name(impl: Any) -> None:
    if find_spec(MODULES[impl]):
        pytest.skip(f"{MODULES[impl]} is installed")
    q = torch.randn(1, 5, 2, 8)
    with pytest.raises(UnsupportedError, match=f"{impl} refuses .* head dim 8: .*No module named"):
        multihead_attention(q, q, q, impl=impl)
    with pytest.raises(UnsupportedError, match=f"{impl} takes no mask; use impl='sdpa'"):
        multihead_attention(q, q, q, torch.ones(1, 5, dtype=torch.bool), impl=impl)


def test_a_pytorch_that_cannot_put_it_in_place_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.nn.attention, "activate_flash_attention_impl")
    small_call.cache_clear()
    q = torch.randn(1, 5, 2, 8)
    with pytest.raises(UnsupportedError, match=r"PyTorch \S+ can't put FA3 in place of its own"):
        multihead_attention(q, q, q, impl="sdpa-flash3")
    small_call.cache_clear()
