"""Agreement of workflows and Makefile with the package and with where it is cloned."""

from __future__ import annotations

import shlex
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from maris_fast.bench.results import ROOT
from maris_fast.kernels.choice.table import FOLDER_VARIABLE, folder


def test_every_python_that_may_install_it_is_tested() -> None:
    allowed = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    tested = {
        python
        for job in workflow["jobs"].values()
        for python in job.get("strategy", {}).get("matrix", {}).get("python", ())
    }
    assert tested == {python for minor in range(30) if (python := f"3.{minor}") in allowed}


def test_a_release_has_the_wheel_and_the_tested_versions() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())
    (publish,) = (
        step["run"] for step in workflow["jobs"]["wheel"]["steps"] if "gh release" in step.get("run", "")
    )
    (command,) = (shlex.split(line) for line in publish.splitlines() if line.startswith("gh release create"))
    assert {"dist/*.whl", "constraints.txt"} < {*command}


def test_the_image_keeps_certificates_in_the_mounted_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "docs" / "Dockerfile").read_text().replace("\\\n", " ")
    for name in ("XDG_CACHE_HOME", FOLDER_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    for line in text.splitlines():
        if line.startswith("ENV "):
            for variable in shlex.split(line)[1:]:
                monkeypatch.setenv(*variable.split("=", 1))
    assert folder().is_relative_to("/work/.cache")


def test_a_clone_below_a_folder_with_a_blank_in_its_name_can_be_set_up(tmp_path: Path) -> None:
    clone = tmp_path / "my clone"
    clone.mkdir()
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (clone / name).write_text((ROOT / name).read_text())
    told = subprocess.run(
        ["make", "-n", "docs"], cwd=clone, capture_output=True, text=True, check=True
    ).stdout
    installs = [shlex.split(line) for line in told.splitlines() if "-m pip" in line]
    assert [words[0] for words in installs] == [str(clone / ".venv" / "bin" / "python")] * 2
