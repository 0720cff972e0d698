"""Modules broken on purpose, one line at a time."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from maris_fast.kernels.mutual_attention import backward_launches, operator

LAUNCHERS = (operator, backward_launches)
"""Modules that launch the kernels of mutual-aware attention."""


def use_broken(
    monkeypatch: pytest.MonkeyPatch,
    launchers: Sequence[ModuleType],
    module: ModuleType,
    right: str,
    wrong: str,
    folder: Path,
) -> None:
    """``launchers`` launch the kernels of ``module`` with ``wrong`` in place of ``right``."""
    mutant = mutant_of(module, right, wrong, folder)
    for kernel in vars(mutant):
        if kernel.endswith("_kernel"):
            (launcher,) = (one for one in launchers if hasattr(one, kernel))
            monkeypatch.setattr(launcher, kernel, getattr(mutant, kernel))


def mutant_of(module: ModuleType, right: str, wrong: str, folder: Path) -> ModuleType:
    """``module`` with ``wrong`` in place of ``right``."""
    assert module.__file__ is not None
    source = Path(module.__file__).read_text()
    assert right in source, "the code has moved on: mutate what it is now"
    broken = folder / "broken.py"
    broken.write_text(source.replace(right, wrong))
    spec = importlib.util.spec_from_file_location("broken", broken)
    assert spec is not None
    assert spec.loader is not None
    mutant = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(mutant)
    return mutant
