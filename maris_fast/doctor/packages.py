"""The interpreter and the packages: their versions, and whether they can be imported."""

from __future__ import annotations

import importlib
import os
import platform
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

from maris_fast.doctor.finding import Finding, broken, ok, together, warning
from maris_fast.doctor.subject import Subject

PROJECT = "maris-fast"
IMPORTED = (
    "torch",
    "torchvision",
    "triton",
    "xformers",
    "deepspeed",
    "open_clip",
    "segment_anything",
    "pycocotools.mask",
    "crc32c",
)
# Both together: Triton 3.6's interpreter can't loop under NumPy 2.4 and later (triton issue 9171).
INTERPRETER_BREAKS_ON = {
    "triton": SpecifierSet("<3.7", prereleases=True),
    "numpy": SpecifierSet(">=2.4", prereleases=True),
}


def python(_: Subject) -> Finding:
    """The interpreter against ``requires-python``."""
    return judge_python(platform.python_version(), _requirements()[0])


def judge_python(version: str, needed: str) -> Finding:
    if SpecifierSet(needed).contains(version, prereleases=True):
        return ok(f"Python {version}")
    return broken(
        f"Python {version}", f"Python {needed}", "make another environment: make setup PYTHON=python3.12"
    )


def packages(_: Subject) -> Finding:
    """Installed versions against what this project needs, and what these packages need of each other."""
    return judge_packages(_requirements()[1], _installed(), os.environ)


def judge_packages(
    needed: Iterable[str],
    installed: Mapping[str, tuple[str, tuple[str, ...]]],
    environment: Mapping[str, str],
) -> Finding:
    """``installed``: version and requirements of each package, by its canonical name."""
    wanted = [Requirement(each) for each in needed]
    findings = [_against(each, installed, "this project") for each in wanted if _applies(each)]
    known = {canonicalize_name(each.name) for each in wanted}
    for name in sorted(known & installed.keys()):
        for text in installed[name][1]:
            each = Requirement(text)
            # A package that is missing here is one of its own that it may do without.
            if _applies(each) and canonicalize_name(each.name) in known & installed.keys():
                findings.append(_against(each, installed, f"{name} {installed[name][0]}"))
    findings.append(_interpreter(installed, environment))
    wrong = [one for one in findings if one is not None]
    return together(wrong) if wrong else ok(f"{len(known)} packages fit, {_versions(installed)}")


def _against(
    needed: Requirement, installed: Mapping[str, tuple[str, tuple[str, ...]]], whose: str
) -> Finding | None:
    name = canonicalize_name(needed.name)
    version = installed[name][0] if name in installed else None
    if version is not None and needed.specifier.contains(version, prereleases=True):
        return None
    came = f"{needed.name} {version or 'is not installed'}"
    return broken(
        came,
        f"{needed.name}{needed.specifier} ({whose})",
        "pip install -c constraints.txt -e . in the clone installs versions that belong together",
    )


def _interpreter(
    installed: Mapping[str, tuple[str, tuple[str, ...]]], environment: Mapping[str, str]
) -> Finding | None:
    found = {name: installed.get(name, ("0",))[0] for name in INTERPRETER_BREAKS_ON}
    if not all(versions.contains(found[name]) for name, versions in INTERPRETER_BREAKS_ON.items()):
        return None
    came, todo = f"numpy {found['numpy']} beside triton {found['triton']}", "pip install 'numpy<2.4'"
    if environment.get("TRITON_INTERPRET", "0") not in ("", "0"):
        needed = "triton>=3.7 or numpy<2.4 where TRITON_INTERPRET is set"
        return broken(came, needed, f"{todo}, or unset TRITON_INTERPRET")
    return warning(came, "triton>=3.7 or numpy<2.4 to run kernels in Triton's interpreter", todo)


def imports(_: Subject) -> Finding:
    """Whether the packages with compiled parts load, together in one process."""
    findings = []
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:  # a wheel built for another torch fails in many ways
            findings.append(
                broken(
                    f"{name} cannot be imported: {type(error).__name__}: {error}",
                    f"{name} for this Python and this torch",
                    _hint(name),
                )
            )
    return together(findings) if findings else ok(f"{', '.join(IMPORTED)} load together")


def _hint(name: str) -> str:
    if name == "torchvision":
        return "install the torchvision of this torch, both with or both without CUDA (see constraints.txt)"
    return f"pip install --force-reinstall -c constraints.txt {name.split('.')[0]}"


def _requirements() -> tuple[str, tuple[str, ...]]:
    """Of the clone that this runs from, or else of the installed package: its Python and its packages."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        said = tomllib.loads(project.read_text())["project"]
        return said["requires-python"], tuple(said["dependencies"])
    about = metadata.metadata(PROJECT)
    needed = (each for each in metadata.requires(PROJECT) or () if "extra ==" not in each)
    return about["Requires-Python"], tuple(needed)


def _installed() -> dict[str, tuple[str, tuple[str, ...]]]:
    found: dict[str, tuple[str, tuple[str, ...]]] = {}
    for one in metadata.distributions():
        # What comes first on the path is what is imported.
        found.setdefault(canonicalize_name(one.name), (one.version, tuple(one.requires or ())))
    return found


def _applies(needed: Requirement) -> bool:
    return needed.marker is None or needed.marker.evaluate({"extra": ""})


def _versions(installed: Mapping[str, tuple[str, tuple[str, ...]]]) -> str:
    shown = ("torch", "torchvision", "triton", "xformers", "deepspeed", "numpy")
    return ", ".join(f"{name} {Version(installed[name][0])}" for name in shown if name in installed)
