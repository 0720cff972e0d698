"""The proof behind ``impl="auto"`` finds a wrong result in each operation that chooses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from maris_fast.kernels.choice import Operation
from maris_fast.kernels.cross_attention import candidates as cross
from maris_fast.kernels.multihead_attention import IMPLEMENTATIONS
from maris_fast.kernels.multihead_attention import candidates as multihead
from maris_fast.kernels.mutual_attention import candidates as mutual
from maris_fast.kernels.mutual_attention import parity

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def halved(implementation: Callable[..., Any]) -> Callable[..., Any]:
    """``implementation`` with its first output halved."""

    def wrong(*given: Any, **more: Any) -> Any:
        out = implementation(*given, **more)
        return (out[0] / 2, *out[1:]) if isinstance(out, tuple) else out / 2

    return wrong


def break_mutual(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(parity, "mutual_attention_fwd", halved(parity.mutual_attention_fwd))


def break_cross(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(cross.IMPLEMENTATIONS, "folded", halved(cross.IMPLEMENTATIONS["folded"]))


def break_multihead(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(IMPLEMENTATIONS, "sdpa", halved(IMPLEMENTATIONS["sdpa"]))


@pytest.mark.parametrize(
    ("operation", "candidate", "kind", "make_wrong", "output"),
    [
        pytest.param(
            mutual.OPERATION,
            mutual.TRITON,
            mutual.Kind("float32", 16, 16, 16, False, False, True),
            break_mutual,
            "f_lav",
            marks=pytest.mark.interpreter,
        ),
        (
            cross.OPERATION,
            cross.FOLDED,
            cross.Kind("float32", 2, 8, 16, 64, 8, True, True),
            break_cross,
            "out",
        ),
        (
            multihead.OPERATION,
            "sdpa",
            multihead.Kind("float32", 2, 8, 64, 64, True, True),
            break_multihead,
            "out",
        ),
    ],
    ids=["mutual", "cross", "multihead"],
)
def test_the_proof_of_a_candidate_finds_a_wrong_output_in_both_of_its_cases(
    operation: Operation,
    candidate: str,
    kind: Any,
    make_wrong: Callable[[pytest.MonkeyPatch], None],
    output: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_wrong(monkeypatch)
    found = operation.failures(candidate, kind, DEVICE)
    assert len([failure for failure in found if failure.startswith(f"{output}: error ")]) == 2, found
