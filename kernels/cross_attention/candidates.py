"""The operation's candidate implementations: kinds of calls, proof and timing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

from maris_fast.kernels.choice.operation import Operation
from maris_fast.kernels.cross_attention.implementations import IMPLEMENTATIONS, Named

if TYPE_CHECKING:
    from maris_fast.kernels.cross_attention.parity import Case, Inputs

HERE = Path(__file__).resolve().parent
PROJECTED, FOLDED, TRITON = "projected", "folded", "triton"
# Expressions of a call, enough to fill a GPU; on a CPU few and short ones, which only show that it works.
ROWS, SHORT = 16, 64


class Kind(NamedTuple):
    """Calls of one kind share an implementation; ``queries``, ``keys``: lengths up to a power of two."""

    dtype: str
    heads: int
    head_dim: int
    C: int
    queries: int
    keys: int
    masked: bool
    gradient: bool


def candidates(kind: Kind, device: torch.device) -> list[str]:
    """On CUDA as written, folded, and the kernels if they support such calls.

    Elsewhere only the kernels, if they are interpreted: a CPU's own choice is by the number of products, not
    by what was proven.
    """
    from maris_fast.kernels.cross_attention.operator import why_unsupported

    fused = why_unsupported(device, getattr(torch, kind.dtype), kind.keys, kind.C) is None
    if device.type != "cuda":
        return [TRITON] if fused else []
    return [PROJECTED, *([TRITON] if fused else []), FOLDED]


def failures(candidate: str, kind: Kind, device: torch.device) -> list[str]:
    """What is wrong with a candidate, on ragged lengths and, for few expressions, on real ones."""
    from maris_fast.kernels.cross_attention.parity import failures as wrong

    impl, real = cast(Named, candidate), _case(kind, device)
    ragged = replace(real, E=3, L_q=37, L_k=max(1, kind.keys - 5))
    return [failure for case in (ragged, replace(real, E=2)) for failure in wrong(impl, case, device)]


def ready(candidate: str, kind: Kind, device: torch.device) -> Callable[[], object]:
    """A call on real inputs: forward, and backward too if the kind has a gradient."""
    drawn = _drawn(kind, device)
    leaves: dict[str, Any] = {
        name: leaf.detach().requires_grad_(kind.gradient) for name, leaf in drawn.leaves.items()
    }
    implementation = IMPLEMENTATIONS[cast(Named, candidate)]
    call: Callable[[], Any] = partial(implementation, **leaves, key_mask=drawn.key_mask)
    if not kind.gradient:
        return call
    return lambda: torch.autograd.grad(call(), list(leaves.values()), drawn.gradient)


def _case(kind: Kind, device: torch.device) -> Case:
    from maris_fast.kernels.cross_attention.parity import Case

    E, L_q = (ROWS, kind.queries) if device.type == "cuda" else (2, min(kind.queries, SHORT))
    dtype = getattr(torch, kind.dtype)
    return Case(E, L_q, kind.keys, kind.heads, kind.head_dim, kind.C, kind.masked, dtype)


# The candidates of a kind are timed on the same inputs.
@lru_cache(maxsize=1)
def _drawn(kind: Kind, device: torch.device) -> Inputs:
    from maris_fast.kernels.cross_attention.parity import draw

    return draw(_case(kind, device), device)


OPERATION = Operation(
    name="cross_attention",
    where=f"{__name__}:OPERATION",
    kind=Kind,
    candidates=candidates,
    failures=failures,
    ready=ready,
    lengths=(("queries", 64), ("keys", 16)),
    sources=(HERE, HERE.with_name("multihead_attention")),
)
