"""Gathers wheels for a GPU machine without a network: gpu_requirements.txt, for Python 3.12, from any Python.

``python -m maris_fast.bench.gpu_wheels [--first] FOLDER`` needs the package registry. DeepSpeed alone has no
wheel, and what is built of it is pure Python. Each wheel's own needs must be met by the others or by the
machine; else nothing is downloaded. ``--try PYTHON`` then installs them as gpu_suite.sh does, and lets that
Python (3.12, with PyTorch) import every module of the package, or with ``--first`` what `first` imports.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from maris_fast.bench.results import BENCH, ROOT
from maris_fast.errors import ConfigError

FIRST, ALL = BENCH / "gpu_requirements_first.txt", BENCH / "gpu_requirements.txt"
BUILT = "deepspeed==0.19.8"
PYTHON_VERSION = "3.12"
MARKERS = {
    "python_version": PYTHON_VERSION,
    "python_full_version": f"{PYTHON_VERSION}.0",
    "platform_system": "Linux",
    "sys_platform": "linux",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
    "extra": "",
}
# The machine has these, and what they need.
OWN = {"torch", "torchvision", "triton", "numpy", "pytest", "pytest-benchmark"}
OWN |= {"filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "setuptools", "sympy"}
OWN |= {"iniconfig", "packaging", "pillow", "pluggy", "typing-extensions"}
OF_FIRST = ("deepspeed", "hypothesis", "maris_fast.bench.step", "maris_fast.bench.first_on_gpu")
# Each module named, or all of the package.
IMPORT = """
import importlib, pkgutil, sys
import maris_fast
names = sys.argv[1:]
if not names:
    names = [found.name for found in pkgutil.walk_packages(maris_fast.__path__, "maris_fast.")]
    # The demo is of the extra `demo`, which the suite does not need.
    names = [name for name in names if not name.endswith("__main__") and ".demo" not in name]
for name in names:
    importlib.import_module(name)
print(f"{len(names)} modules imported by Python {sys.version.split()[0]}")
"""


def resolved(listed: Path) -> dict[str, Mapping[str, Any]]:
    """{name: metadata} of the wheels that a list names, found at the registry and not downloaded.

    Raises:
        ConfigError: there is no wheel for one of them, or no registry.
    """
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        own = ["--dry-run", "--ignore-installed", "--target", folder, "--report", str(report)]
        _pip("install", *own, *_for_the_machine(listed))
        installs = json.loads(report.read_text())["install"]
    return {canonicalize_name(each["metadata"]["name"]): each["metadata"] for each in installs}


def unmet(wheels: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What the wheels need and none of them, nor the machine, is."""
    for name, metadata in wheels.items():
        for text in metadata.get("requires_dist", ()):
            need = Requirement(text)
            needed = canonicalize_name(need.name)
            if (need.marker and not need.marker.evaluate(MARKERS)) or needed in OWN:
                continue
            found = wheels.get(needed)
            if found is None:
                yield f"{name} needs {text}, which is not listed"
            elif not need.specifier.contains(found["version"], prereleases=True):
                yield f"{name} needs {text}, and {found['version']} is listed"


def gather(listed: Path, folder: Path) -> None:
    """Downloads and builds the wheels of a list.

    Raises:
        ConfigError: the list does not hold together, or the registry lacks one.
    """
    missing = list(unmet(resolved(listed)))
    if missing:
        raise ConfigError(f"{listed.name}: {'; '.join(missing)}")
    _pip("download", "-d", str(folder), *_for_the_machine(listed))
    _pip("wheel", "--no-deps", "-w", str(folder), BUILT)


def try_out(python: str, folder: Path, modules: Sequence[str] = ()) -> None:
    """Imports these modules, or all of the package, with the wheels, in another Python that has PyTorch."""
    with tempfile.TemporaryDirectory() as site:
        wheels = [str(wheel) for wheel in sorted(folder.glob("*.whl"))]
        install = ["-q", "--no-index", "--no-deps", "--no-compile", "--upgrade", "--target", site]
        subprocess.run([python, "-m", "pip", "install", *install, *wheels], check=True)
        path = os.pathsep.join((str(ROOT), site))
        command = [python, "-c", IMPORT, *modules]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, cwd=ROOT, check=True)


def _for_the_machine(listed: Path) -> list[str]:
    return ["--no-deps", "--only-binary=:all:", f"--python-version={PYTHON_VERSION}", "-r", str(listed)]


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        raise ConfigError(f"pip {arguments[0]}: {'; '.join(errors) or done.stderr[-500:]}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--first", action="store_true", help="only what `gpu_suite.sh first` needs")
    parser.add_argument("--try", dest="python", help="a Python 3.12 with PyTorch, to import everything in")
    options = parser.parse_args(arguments)
    try:
        gather(FIRST if options.first else ALL, options.folder)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return 2
    wheels = list(options.folder.glob("*.whl"))
    size = sum(wheel.stat().st_size for wheel in wheels)
    print(f"{len(wheels)} wheels, {size / 2**20:.1f} MiB in {options.folder}")
    if options.python:
        try_out(options.python, options.folder, OF_FIRST if options.first else ())
    return 0


if __name__ == "__main__":
    sys.exit(main())
