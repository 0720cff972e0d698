"""A certificate is valid for all code that the candidates of its operation run."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from maris_fast.kernels.choice import Operation, operation
from maris_fast.kernels.cross_attention.candidates import OPERATION as CROSS
from maris_fast.kernels.multihead_attention.candidates import OPERATION as MULTIHEAD
from maris_fast.kernels.mutual_attention.candidates import OPERATION as MUTUAL

KERNELS = operation.HERE.parent
IMPORTED = re.compile(r"^\s*from maris_fast\.kernels\.(\w+)", re.MULTILINE)


@pytest.mark.parametrize("one", [MUTUAL, CROSS, MULTIHEAD], ids=lambda one: one.name)
def test_sources_are_all_folders_that_an_operation_imports_from(one: Operation) -> None:
    own = KERNELS / one.name
    texts = (file.read_text() for file in own.glob("*.py"))
    imported = {KERNELS / name for text in texts for name in IMPORTED.findall(text)}
    assert {own, *(place for place in imported if place.is_dir())} <= {*one.sources, operation.HERE}


@pytest.mark.parametrize("changed", ["operators.py", "choice/trial.py"])
def test_a_change_of_shared_code_invalidates_certificates(
    changed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "kernels"
    shutil.copytree(KERNELS, copy, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(operation, "HERE", copy / "choice")
    before = MUTUAL.sources_hash()
    with (copy / changed).open("a") as file:
        file.write("\n")
    assert MUTUAL.sources_hash() != before
