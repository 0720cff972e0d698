"""The lists of wheels for a GPU machine without a network."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from maris_fast.bench.results import BENCH, ROOT

FIRST, ALL = BENCH / "gpu_requirements_first.txt", BENCH / "gpu_requirements.txt"
OWN = {"torch", "torchvision", "triton", "numpy", "pytest", "filelock", "fsspec", "jinja2", "markupsafe"}
OWN |= {"networkx", "packaging", "pillow", "setuptools", "sympy", "typing-extensions"}
"""Packages that the machine has, and their dependencies."""


def pins(file: Path) -> dict[str, str]:
    lines = re.findall(r"^([\w.-]+)==(\S+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in lines}


def test_every_line_is_pinned_and_agrees_with_the_projects_constraints() -> None:
    constrained = pins(ROOT / "constraints.txt")
    for file in (FIRST, ALL):
        lines = [line for line in file.read_text().splitlines() if line and line[0] not in "#-"]
        assert len(pins(file)) == len(lines)
        differing = {
            name: (version, constrained[name])
            for name, version in pins(file).items()
            if constrained.get(name, version) != version
        }
        assert differing == {}
    assert f"deepspeed=={constrained['deepspeed']}\n" in FIRST.read_text()


def test_what_a_listed_package_needs_is_listed_or_the_machines_own() -> None:
    """Only for versions that are installed here too; the GPU machine installs without dependencies."""
    listed = {**pins(FIRST), **pins(ALL), "deepspeed": ""}
    looked, unmet = 0, []
    for name, version in listed.items():
        here = next((one for one in metadata.distributions() if canonicalize_name(one.name) == name), None)
        if here is None or here.version != version:
            continue
        looked += 1
        for need in map(Requirement, here.requires or ()):
            wanted = canonicalize_name(need.name)
            applies = need.marker is None or need.marker.evaluate({"extra": "", "python_version": "3.12"})
            fits = wanted in OWN or need.specifier.contains(listed.get(wanted, "0"), prereleases=True)
            if applies and not (fits and wanted in {*OWN, *listed}):
                unmet.append(f"{name} needs {need}, listed is {listed.get(wanted)}")
    assert unmet == []
    assert looked > 40
