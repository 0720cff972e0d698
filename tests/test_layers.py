"""Imports point one way: to layers below a module's own and, within a package, never in a circle."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
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


def circle(root: Path) -> list[str]:
    """Modules that import each other in a circle, in functions too; empty if there is none."""
    files = modules(root)
    graph: dict[str, set[str]] = {}
    for module, file in files.items():
        names = (name for _, name in imports(file))
        others = (name if name in files else name.rpartition(".")[0] for name in names)
        graph[module] = {other for other in others if other in files and other != module}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(reversed(error.args[1]))
    return []


def test_every_room_has_its_layer() -> None:
    assert {module.split(".")[1] for module in modules(ROOT) if "." in module} == set(LAYER)


def test_imports_point_downward() -> None:
    assert upward(ROOT) == []


def test_no_modules_import_each_other() -> None:
    assert circle(ROOT) == []


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


def test_a_circle_of_imports_is_found_in_functions_too(tmp_path: Path) -> None:
    lines = {
        "api": "from maris_fast.kernels.attention.candidates import candidates",
        "candidates": "def ready():\n    import maris_fast.kernels.attention.parity",
        "parity": "from maris_fast.kernels.attention import api, shapes",
        "shapes": "from maris_fast.kernels.attention.sizes import LARGEST",
        "sizes": "",
    }
    (tmp_path / "kernels" / "attention").mkdir(parents=True)
    for name, line in lines.items():
        (tmp_path / "kernels" / "attention" / f"{name}.py").write_text(line)
    found = [name.rpartition(".")[2] for name in circle(tmp_path)]
    first = found.index("api")
    assert found[0] == found[-1]
    assert [*found[first:-1], *found[:first]] == ["api", "candidates", "parity"]
