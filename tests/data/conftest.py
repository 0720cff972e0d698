"""Data sets shared by the tests of several forms."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.other_forms import Family, real_family, small_family


@pytest.fixture(params=["small", pytest.param("real", marks=pytest.mark.real_data)])
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Family:
    if request.param == "small":
        return small_family(tmp_path)
    return real_family(request.getfixturevalue("refmini"), tmp_path)


@pytest.fixture
def small(tmp_path: Path) -> Family:
    return small_family(tmp_path)
