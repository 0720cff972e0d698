"""The lists of wheels for a GPU machine without a network: they hold together, for Python 3.12."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from maris_fast.bench import gpu_wheels
from maris_fast.bench.gpu_wheels import ALL, BUILT, FIRST, resolved, unmet
from maris_fast.bench.results import ROOT
from maris_fast.errors import ConfigError


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
    assert BUILT.partition("==")[2] == constrained["deepspeed"]


@pytest.mark.process
def test_the_registry_has_wheels_of_the_list_for_the_machine_and_each_ones_needs_are_met() -> None:
    try:
        wheels = resolved(FIRST)
    except ConfigError as error:
        if re.search("connection|resolve host|network|timed out|No matching distribution", str(error)):
            pytest.skip(f"needs a package registry: {error}")
        raise
    assert wheels.keys() == pins(FIRST).keys()
    assert list(unmet(wheels)) == []
    # What was wrong once: pydantic takes one pydantic_core and no other.
    wheels["pydantic-core"] = {**wheels["pydantic-core"], "version": "2.50.5"}
    assert list(unmet(wheels)) == ["pydantic needs pydantic-core==2.50.4, and 2.50.5 is listed"]
    del wheels["wcwidth"]
    assert "ftfy needs wcwidth, which is not listed" in unmet(wheels)


def test_a_list_that_does_not_hold_together_is_not_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    requires = ['two>=2; python_version > "3"', "torch", 'three; extra == "more"']
    needy = {"one": {"version": "1", "requires_dist": requires}}
    monkeypatch.setattr(gpu_wheels, "resolved", lambda _: needy)
    monkeypatch.setattr(gpu_wheels, "_pip", lambda *_: pytest.fail("nothing is to be fetched"))
    assert gpu_wheels.main([str(tmp_path)]) == 2
    needed = 'one needs two>=2; python_version > "3", which is not listed'
    assert capsys.readouterr().err == f"gpu_requirements.txt: {needed}\n"
