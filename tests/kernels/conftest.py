"""In this folder Triton's interpreter computes as a GPU does."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from maris_fast.kernels.cross_attention import operator as cross_attention_operator
from maris_fast.kernels.interpreter import interpreter_computes_bf16, interpreter_counts
from maris_fast.kernels.mutual_attention import backward_launches, operator
from maris_fast.kernels.mutual_attention.blocks import TMA_ROWS, Blocks, Walk
from tests.kernels.mended_interpreter import mend_interpreter

LAUNCHERS = (operator, backward_launches, cross_attention_operator)
"""Modules that launch kernels."""
MutantOf = Callable[[ModuleType, str, str], ModuleType]
UseBroken = Callable[[ModuleType, str, str], None]


@pytest.fixture(autouse=True)
def mended_interpreter(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if operator.INTERPRETED:
        mend_interpreter(monkeypatch)
    yield
    interpreter_computes_bf16.cache_clear()
    interpreter_counts.cache_clear()


@pytest.fixture
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every forward is the one for Hopper, with several tiles per program."""
    table = operator._blocks

    def with_tma(*call: object) -> Blocks:
        return replace(table(*call), forward=Walk(TMA_ROWS, 8, 3, programs=2))  # type: ignore[arg-type]

    monkeypatch.setattr(operator, "_blocks", with_tma)


@pytest.fixture
def mutant_of(tmp_path: Path) -> MutantOf:
    """A module with ``wrong`` in place of ``right``. Tests that use this are marked ``mutant``."""

    def mutant(module: ModuleType, right: str, wrong: str) -> ModuleType:
        assert module.__file__ is not None
        source = Path(module.__file__).read_text()
        assert right in source, "the code has moved on: mutate what it is now"
        broken = tmp_path / "broken.py"
        broken.write_text(source.replace(right, wrong))
        spec = importlib.util.spec_from_file_location("broken", broken)
        assert spec is not None
        assert spec.loader is not None
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return loaded

    return mutant


@pytest.fixture
def use_broken(mutant_of: MutantOf, monkeypatch: pytest.MonkeyPatch) -> UseBroken:
    """Launches the kernels of a module with ``wrong`` in place of ``right``."""

    def use(module: ModuleType, right: str, wrong: str) -> None:
        mutant = mutant_of(module, right, wrong)
        for kernel in vars(mutant):
            if kernel.endswith("_kernel"):
                (launcher,) = (one for one in LAUNCHERS if hasattr(one, kernel))
                monkeypatch.setattr(launcher, kernel, getattr(mutant, kernel))

    return use
