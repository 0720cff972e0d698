"""Imports point one way: a module may import from layers below its own, not from the same layer or above."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BESIDE = ("kernels", "data_shards", "train", "bench")
"""Folders next to the package, which symlinks inside it point to."""

LAYERS = (
    "errors",
    "config kernels",
    "system geometry images losses rle",
    "sample",
    "model scoring encoders",
    "weight_files",
    "weights pictures",
    "prediction exporting",
    "data_shards",
    "train predicting",
    "evaluation",
    "ablation",
    "reports web",
    "doctor demo service sharing",
    "bench",
    "cli",
)
"""From the bottom up; modules on one line do not import each other."""
LAYER = {room: height for height, line in enumerate(LAYERS) for room in line.split()}
ENTRIES = ("maris_fast", "maris_fast.train.main", "maris_fast.evaluation.__main__")
"""The Python interface and what launchers start; like the command line, they may import everything."""


def modules(root: Path) -> dict[str, Path]:
    """Every file, by the module name under which it is imported."""
    found = {}
    for folder in ("maris_fast", *BESIDE):
        for file in (root / folder).rglob("*.py"):
            parts = file.relative_to(root).with_suffix("").parts
            if folder == "maris_fast" and parts[1] in BESIDE:
                continue
            full = parts if folder == "maris_fast" else ("maris_fast", *parts)
            found[".".join(full).removesuffix(".__init__")] = file
    return found


def imports(file: Path) -> Iterator[tuple[int, str]]:
    """Line and name of each import of this package in a file, at any level."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{one.name}" for one in node.names]
        else:
            continue
        yield from ((node.lineno, name) for name in names if re.match(r"maris_fast\.[a-z]", name))


def upward(root: Path) -> list[str]:
    """Imports of modules that are not in a layer below the file's own."""
    wrong = []
    for module, file in modules(root).items():
        if module in ENTRIES:
            continue
        own = module.split(".")[1]
        for line, name in imports(file):
            other = name.split(".")[1]
            if other != own and LAYER.get(other, len(LAYERS)) >= LAYER.get(own, -1):
                wrong.append(f"{file.relative_to(root)}:{line}: {own} imports {other}")
    return wrong


def test_every_room_has_its_layer() -> None:
    assert {module.split(".")[1] for module in modules(ROOT) if "." in module} == set(LAYER)


def test_imports_point_downward() -> None:
    assert upward(ROOT) == []


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("train/loop.py", "def run():\n    from maris_fast.reports import write", "train imports reports"),
        ("maris_fast/model/maris.py", "import maris_fast.data_shards.stream", "model imports data_shards"),
        ("maris_fast/demo/page.py", "from maris_fast import doctor", "demo imports doctor"),
        ("maris_fast/drawer/odds.py", "from maris_fast.errors import MarisError", "drawer imports errors"),
    ],
)
def test_an_import_that_points_elsewhere_is_found(tmp_path: Path, file: str, line: str, told: str) -> None:
    (tmp_path / file).parent.mkdir(parents=True)
    (tmp_path / file).write_text(line)
    assert [one.split(": ", 1)[1] for one in upward(tmp_path)] == [told]
