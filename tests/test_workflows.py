"""Agreement of the workflows with the package's metadata."""

from __future__ import annotations

import tomllib

import yaml
from packaging.specifiers import SpecifierSet

from maris_fast.bench.results import ROOT


def test_every_python_that_may_install_it_is_tested() -> None:
    allowed = SpecifierSet(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"])
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())
    tested = {
        python
        for job in workflow["jobs"].values()
        for python in job.get("strategy", {}).get("matrix", {}).get("python", ())
    }
    assert tested == {python for minor in range(30) if (python := f"3.{minor}") in allowed}
