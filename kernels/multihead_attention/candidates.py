"""The operation's candidate implementations: kinds of calls, proof and timing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

import torch

from maris_fast.kernels.choice.operation import Operation
from maris_fast.kernels.multihead_attention.implementations import IMPLEMENTATIONS, Named, why_unsupported

if TYPE_CHECKING:
    from maris_fast.kernels.multihead_attention.parity import Inputs, Shape

HERE = Path(__file__).resolve().parent
# Rows of a call, enough to fill a GPU; on a CPU few and short ones, which only show that it works.
ROWS, SHORT = 16, 64
ONLY_NAMED: tuple[Named, ...] = ("reference", "sdpa-cudnn")
"""Never chosen by ``auto``: the reference stores Q Kᵀ, and cuDNN builds a graph for each new shape, which a
proof of one shape does not time (``torch_backends.py``)."""


class Kind(NamedTuple):
    """Calls of one kind share an implementation; ``queries``, ``keys``: lengths up to a power of two."""

    dtype: str
    heads: int
    head_dim: int
    queries: int
    keys: int
    masked: bool
    gradient: bool


def usual(kind: Kind, device: torch.device) -> Named:
    """xformers on CUDA, PyTorch's own elsewhere and where xformers can't run."""
    if device.type == "cuda" and _why_unsupported("xformers", kind, device) is None:
        return "xformers"
    return "sdpa"


def candidates(kind: Kind, device: torch.device) -> list[str]:
    """On CUDA, all but ``ONLY_NAMED`` that support such calls, the usual one first.

    On a CPU there is no choice: PyTorch's own picks its only fast kernel.
    """
    first = usual(kind, device)
    if device.type != "cuda":
        return [first]
    others = [impl for impl in IMPLEMENTATIONS if impl not in (first, *ONLY_NAMED)]
    return [first, *(impl for impl in others if _why_unsupported(impl, kind, device) is None)]


def failures(candidate: str, kind: Kind, device: torch.device) -> list[str]:
    """What is wrong with a candidate, on lengths that are not multiples of a tile and on real ones."""
    from maris_fast.kernels.multihead_attention.parity import Shape, provable
    from maris_fast.kernels.multihead_attention.parity import failures as wrong

    impl, dtype = cast(Named, candidate), getattr(torch, kind.dtype)
    ragged = Shape(3, 37, 37 if kind.keys == kind.queries else 11, 2, kind.head_dim, kind.masked)
    shapes = (ragged, provable(_shape(kind, device)))
    return [failure for shape in shapes for failure in wrong(impl, shape, device, dtype)]


def ready(candidate: str, kind: Kind, device: torch.device) -> Callable[[], object]:
    """A call on real inputs: forward, and backward too if the kind has a gradient."""
    from maris_fast.kernels.multihead_attention.parity import run

    drawn, impl = _drawn(kind, device), cast(Named, candidate)
    if kind.gradient:
        return lambda: run(impl, drawn)
    q, k, v = (leaf.detach() for leaf in drawn.leaves)
    return lambda: IMPLEMENTATIONS[impl](q, k, v, drawn.key_mask)


def _why_unsupported(impl: Named, kind: Kind, device: torch.device) -> str | None:
    return why_unsupported(impl, device, getattr(torch, kind.dtype), kind.head_dim, kind.masked)


def _shape(kind: Kind, device: torch.device) -> Shape:
    from maris_fast.kernels.multihead_attention.parity import Shape

    shape = Shape(ROWS, kind.queries, kind.keys, kind.heads, kind.head_dim, kind.masked)
    if device.type == "cuda":
        return shape
    return replace(shape, B=2, L_q=min(kind.queries, SHORT), L_k=min(kind.keys, SHORT))


# The candidates of a kind are timed on the same inputs.
@lru_cache(maxsize=1)
def _drawn(kind: Kind, device: torch.device) -> Inputs:
    from maris_fast.kernels.multihead_attention.parity import draw

    return draw(_shape(kind, device), device, getattr(torch, kind.dtype))


OPERATION = Operation(
    name="multihead_attention",
    where=f"{__name__}:OPERATION",
    kind=Kind,
    candidates=candidates,
    failures=failures,
    ready=ready,
    lengths=(("queries", 64), ("keys", 64)),
    sources=(HERE,),
)
