"""What an operation declares, so that its implementations can be tried and one of them chosen."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import torch

HERE = Path(__file__).resolve().parent
Kind = Any
"""A NamedTuple of int, str and bool: calls that are equal in all fields get the same implementation."""


def _on_cuda(device: torch.device) -> bool:
    """Time on CUDA only: a CPU runs kernels in the interpreter, whose time says nothing about them."""
    return device.type == "cuda"


@dataclass(frozen=True)
class Operation:
    """One operation, its kinds and its candidates.

    The first of ``candidates`` is the usual one, which wins ties. ``failures`` is the proof, on a ragged and
    on a real size: it returns what is wrong. ``ready`` draws real inputs and returns one call with them.
    ``timed``: whether times on this device mean anything; if not, the first one that is right is chosen.
    """

    name: str
    where: str
    """``module:attribute`` of this object, by which a child process imports it."""
    kind: type[Any]
    candidates: Callable[[Kind, torch.device], Sequence[str]]
    failures: Callable[[str, Kind, torch.device], list[str]]
    ready: Callable[[str, Kind, torch.device], Callable[[], object]]
    sources: tuple[Path, ...]
    """Files, or folders of them, beside this folder and the files that all operations share.

    A change in any of these invalidates the certificates."""
    timed: Callable[[torch.device], bool] = _on_cuda
    lengths: tuple[tuple[str, int], tuple[str, int]] | None = None
    """The two fields of a kind that ``power_of_two`` rounded up, each with its ``least``."""

    def sources_hash(self) -> str:
        """A hash of the operation's sources, of this folder's and of the files that all operations share."""
        digest = hashlib.sha256()
        for place in (*self.sources, HERE, HERE.parent):
            for file in sorted(place.glob("*.py")) if place.is_dir() else [place]:
                digest.update(file.name.encode() + file.read_bytes())
        return digest.hexdigest()[:16]


def of(where: str) -> Operation:
    """The operation at ``module:attribute``."""
    module, _, attribute = where.partition(":")
    operation = getattr(import_module(module), attribute)
    assert isinstance(operation, Operation)
    return operation


def text(kind: Kind) -> str:
    """A kind as text, such as ``dtype=bfloat16 words=32 C=256``."""
    return " ".join(f"{name}={value}" for name, value in kind._asdict().items())


def read(kind: type[Any], words: str) -> Kind:
    """The kind that ``text`` wrote.

    Raises:
        ValueError: the fields are different, or a value is not of its field's type.
    """
    types = get_type_hints(kind)
    values = dict(word.split("=", 1) for word in words.split())
    if values.keys() != types.keys():
        raise ValueError(f"{words!r} is not a kind of {', '.join(types)}")
    return kind._make(
        values[name] == "True" if types[name] is bool else types[name](values[name]) for name in types
    )


def power_of_two(length: int, least: int = 64) -> int:
    """The smallest power of two >= ``length``, ``least`` to 2**16."""
    return next((power for power in POWERS if power >= least and length <= power), POWERS[-1])


def rounded_to(power: int, least: int) -> tuple[int, int]:
    """The lengths that ``power_of_two`` rounds to ``power``: those above the first, up to the second."""
    return 0 if power == least else power // 2, sys.maxsize if power == POWERS[-1] else power


POWERS = tuple(2**exponent for exponent in range(4, 17))
