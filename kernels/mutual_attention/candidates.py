"""The operation's candidate implementations: kinds of calls, proof and timing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from maris_fast.kernels.choice.operation import Operation
from maris_fast.kernels.mutual_attention.blocks import WORD_BLOCKS
from maris_fast.kernels.mutual_attention.reference import Reading

if TYPE_CHECKING:
    from maris_fast.kernels.mutual_attention.parity import Case, Inputs

HERE = Path(__file__).resolve().parent
TRITON, REFERENCE = "triton", "reference"
# Visual tokens on a CPU, where a proof only shows that it works.
SHORT = 40


class Kind(NamedTuple):
    """Calls of one kind share an implementation.

    ``words``: the block that holds L_t; ``tokens``: L_v up to a power of two; the last three: a ``Reading``.
    """

    dtype: str
    words: int
    C: int
    tokens: int
    grouped: bool
    masked: bool
    gradient: bool
    language_norm: str = "none"
    empty_rows: str = "none"
    score_scale: str = "none"

    @property
    def reading(self) -> Reading:
        return Reading(self.language_norm, self.empty_rows, self.score_scale)  # type: ignore[arg-type]


def candidates(kind: Kind, device: torch.device) -> list[str]:
    """The kernels with the table's block sizes and, on a GPU, alternatives to them; the reference.

    A candidate is a name, perhaps followed by a colon and the walks for ``blocks.cut_otherwise``.
    """
    from maris_fast.kernels.mutual_attention.blocks import alternatives, blocks
    from maris_fast.kernels.mutual_attention.operator import why_unsupported
    from maris_fast.kernels.triton_here import INTERPRETER, limits

    dtype, divided = getattr(torch, kind.dtype), kind.language_norm == "columns"
    if why_unsupported(device, dtype, kind.words, kind.C) is not None:
        return [REFERENCE]
    here = limits(device)
    others: list[str] = []
    if here.architecture != INTERPRETER:
        call = (here, dtype.itemsize, kind.words, kind.C)
        own = blocks(*call, divided=divided)
        others = [
            f"{TRITON}:{other.cut}"
            for other in alternatives(*call, divided=divided).values()
            if kind.gradient or other.backward == own.backward
        ]
    return [TRITON, *others, REFERENCE]


def cut_of(candidate: str) -> str:
    """The block sizes in a candidate's name; empty for the table's."""
    return candidate.partition(":")[2]


def failures(candidate: str, kind: Kind, device: torch.device) -> list[str]:
    """What is wrong with a candidate, on a ragged and a real case. The reference is right by definition."""
    from maris_fast.kernels.mutual_attention.parity import parity

    if candidate == REFERENCE:
        return []
    cases = (_ragged(kind, device), _whole(kind, device))
    return [failure for case in cases for failure in parity(case, device, cut=cut_of(candidate)).failures()]


def ready(candidate: str, kind: Kind, device: torch.device) -> Callable[[], object]:
    """A call on real inputs: forward, and backward too if the kind has a gradient."""
    from maris_fast.kernels.mutual_attention.parity import run

    drawn = _drawn(kind, device)
    impl = candidate.partition(":")[0]
    return lambda: run(drawn, impl, cut_of(candidate), kind.gradient, kind.reading)


def _ragged(kind: Kind, device: torch.device) -> Case:
    """Groups of 2, 0 and 1, padding, a last tile that is not full, words that do not fill their block."""
    from maris_fast.kernels.mutual_attention.parity import Case

    L_v, L_t, dtype = 100 if device.type == "cuda" else 37, kind.words - 3, getattr(torch, kind.dtype)
    counts = (2, 0, 1) if kind.grouped else None
    return Case(L_v, L_t, kind.C, dtype, counts, 3, padded=kind.masked, reading=kind.reading)


def _whole(kind: Kind, device: torch.device) -> Case:
    """All of L_v and C, for few expressions: the fp64 reference is slow."""
    from maris_fast.kernels.mutual_attention.parity import Case

    L_v = kind.tokens if device.type == "cuda" else min(kind.tokens, SHORT)
    counts = (2, 1) if kind.grouped else None
    dtype = getattr(torch, kind.dtype)
    return Case(L_v, kind.words, kind.C, dtype, counts, 2, padded=kind.masked, reading=kind.reading)


# The candidates of a kind are timed on the same inputs.
@lru_cache(maxsize=1)
def _drawn(kind: Kind, device: torch.device) -> Inputs:
    """28 expressions of 4 images, or 28 pairs, enough to fill a GPU; few on a CPU."""
    from maris_fast.kernels.mutual_attention.parity import draw

    case = _whole(kind, device)
    if device.type == "cuda":
        case = replace(case, counts=(7,) * 4 if kind.grouped else None, images=28)
    return draw(case, device)


OPERATION = Operation(
    name="mutual_attention",
    where=f"{__name__}:OPERATION",
    kind=Kind,
    candidates=candidates,
    failures=failures,
    ready=ready,
    lengths=(("words", WORD_BLOCKS[0]), ("tokens", 64)),
    sources=(HERE,),
)
