"""The package and its extras install what their modules import."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_layers import ROOT, modules

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FOR_DEVELOPERS = ("docs", "test")
MODULES_OF = {
    "": r"",
    "demo": r"demo\b|web\b",
    "lmdb": r"data_shards\.importers\.forms\.cris_lmdb",
    "onnx": r"exporting\b",
    "parquet": r"data_shards\.importers\.forms\.parquet",
    "ray": r"data_shards\.cache\.ray_crew|system\.ray_cluster",
    "serve": r"service\b|web\b",
    "stores": r"system\.object_store",
}
"""Modules that run only if the extra is installed; "": all others."""
NOT_INSTALLED = {"wandb"}
"""Packages that no extra lists; the code that uses them says so if they are missing."""


def imported(file: Path) -> Iterator[tuple[int, str]]:
    """Line and top-level name of each import of another project's package."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module]
        else:
            continue
        for name in names:
            top = name.partition(".")[0]
            if top not in sys.stdlib_module_names and top != "maris_fast":
                yield node.lineno, top


def installed_by(lines: Iterable[str]) -> set[str]:
    """The distributions that requirements install, with the requirements of those."""
    waiting, known = [Requirement(line) for line in lines], {}
    while waiting:
        need = waiting.pop()
        name = canonicalize_name(need.name)
        if known.get(name, set()) >= {"", *need.extras}:
            continue
        known[name] = known.get(name, set()) | {"", *need.extras}
        for one in map(Requirement, metadata.requires(name) or ()):
            marks = [one.marker is None or one.marker.evaluate({"extra": extra}) for extra in known[name]]
            if any(marks):
                waiting.append(one)
    return set(known)


def modules_of(extra: str) -> Iterator[tuple[str, Path]]:
    other = "|".join(filter(None, MODULES_OF.values()))
    for name, file in modules(ROOT).items():
        inner = name.partition(".")[2]
        if inner.startswith("bench"):
            continue
        if re.match(MODULES_OF[extra], inner) if extra else not re.match(other, inner):
            yield name, file


def test_every_extra_says_which_modules_need_it() -> None:
    assert set(MODULES_OF) - {""} == set(PROJECT["optional-dependencies"]) - set(FOR_DEVELOPERS)
    for extra in MODULES_OF:
        assert list(modules_of(extra)), extra


@pytest.mark.parametrize("extra", MODULES_OF)
def test_what_the_modules_of_an_extra_import_is_installed_with_it(extra: str) -> None:
    provided = metadata.packages_distributions()
    lines = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"].get(extra, ())]
    installed = installed_by(lines)
    missing = [
        f"{module}:{line}: {name}"
        for module, file in modules_of(extra)
        for line, name in imported(file)
        if name not in NOT_INSTALLED
        and not {canonicalize_name(one) for one in provided.get(name, ())} & installed
    ]
    assert missing == []
