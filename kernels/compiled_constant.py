"""A marker for torch.compile that does not import the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

F = TypeVar("F", bound=Callable[..., object])


def constant_when_compiled(function: F) -> F:
    """Do what ``torch.compiler.assume_constant_result`` does: torch.compile calls it once, while compiling.

    The original imports the compiler and SymPy, two seconds of every start, to set the same attribute.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
