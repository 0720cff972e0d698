"""A mark for torch.compile that costs no import of the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def constant_when_compiled(function: F) -> F:
    """What ``torch.compiler.assume_constant_result`` does: torch.compile calls it once, while it compiles.

    That one imports the compiler and SymPy, two seconds of every start, to set this attribute.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
