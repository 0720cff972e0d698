"""What all launches and ahead-of-time compilation have in common."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from triton.runtime.interpreter import InterpretedFunction

from maris_fast.kernels import ahead_of_time, cross_attention, mutual_attention
from maris_fast.kernels.cross_attention.parity import Case, draw
from maris_fast.kernels.cross_attention.tiles import STAGES, WARPS
from maris_fast.kernels.mutual_attention.configurations import configurations
from maris_fast.kernels.mutual_attention.operator import INTERPRETED
from maris_fast.kernels.triton_here import INTERPRETER

of_the_interpreter = pytest.mark.skipif(not INTERPRETED, reason="of the interpreter")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Any]]:
    """The options of a launch, by kernel, of a forward and backward of each operation."""
    named: dict[str, dict[str, Any]] = {}
    run = InterpretedFunction.run

    def recorded(self: Any, *args: Any, **kwargs: Any) -> Any:
        if "attention" in self.fn.__name__:
            named[self.fn.__name__] = kwargs
        return run(self, *args, **kwargs)

    monkeypatch.setattr(InterpretedFunction, "run", recorded)
    z = torch.randn(1, 4, 32, dtype=torch.float16, requires_grad=True)
    outputs = mutual_attention(z, z, *[torch.ones(32)] * 4, impl="triton")
    sum(out.float().sum() for out in outputs).backward()  # type: ignore[union-attr]
    leaves = draw(Case(C=32)).leaves
    cross_attention(**leaves, impl="triton").sum().backward()
    assert len(named) == 8
    return named


@of_the_interpreter
def test_every_launch_names_fp_fusion(launched: dict[str, dict[str, Any]]) -> None:
    assert {options["enable_fp_fusion"] for options in launched.values()} == {True}


@of_the_interpreter
def test_every_kernel_is_compiled_ahead_of_time_with_the_warps_and_stages_of_its_launch(
    launched: dict[str, dict[str, Any]],
) -> None:
    compiled: dict[str, set[tuple[int, int]]] = {
        "cross_attention_fwd_kernel": {(WARPS, STAGES)},
        "cross_attention_bwd_kernel": {(WARPS, STAGES)},
    }
    for one in configurations(INTERPRETER):
        compiled.setdefault(one.kernel.__name__, set()).add((one.walk.warps, one.walk.stages))
    for kernel, options in launched.items():
        assert (options["num_warps"], options["num_stages"]) in compiled[kernel], kernel


def test_the_compiler_ahead_of_time_names_fp_fusion(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def compiled(source: Any, target: Any, options: dict[str, Any]) -> Any:
        asked.update(options)
        return SimpleNamespace(asm={"cubin": b""}, metadata=SimpleNamespace(shared=0))

    monkeypatch.setattr(ahead_of_time, "ASTSource", lambda **_: None)
    monkeypatch.setattr(ahead_of_time.triton, "compile", compiled)
    ahead_of_time.compile_to_cubin(SimpleNamespace(arg_names=["x_ptr"]), {}, 90, 4, 1)
    assert asked == {"num_warps": 4, "num_stages": 1, "enable_fp_fusion": True}
