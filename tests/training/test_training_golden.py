"""The tiny configuration's losses match the golden curves."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import Any

import pytest

from maris_fast.data_shards.cache import read_manifest
from maris_fast.train.cache_info import CacheInfo
from tests.training import golden

pytestmark = pytest.mark.process


@pytest.mark.parametrize("name", golden.CONFIGURATIONS)
def test_the_curve_is_where_it_was(name: str, cache: Path, tmp_path: Path) -> None:
    found, wanted = golden.curve(name, cache, tmp_path / "run"), golden.golden(name)
    if found["data"] != wanted["data"]:
        warnings.warn(
            f"other features than the golden curve's: compared within {golden.OTHER_DATA}", stacklevel=1
        )
    lines = golden.moved(found, wanted)
    assert not lines, golden.explain(name, found, wanted, lines)


def test_a_small_change_of_the_optimiser_is_noticed(cache: Path, tmp_path: Path) -> None:
    wanted = golden.golden("one_rank_fp32")
    same = CacheInfo.of(read_manifest(cache), "train").fingerprint == wanted["data"]
    # The tolerance is wider on features computed by another CPU.
    change = "optimiser.weight_decay=0.02" if same else "optimiser.lr=1.02e-3"
    assert golden.moved(golden.curve("one_rank_fp32", cache, tmp_path / "run", change), wanted)


def test_what_moved_is_named_with_the_way_to_renew_it() -> None:
    wanted = golden.golden("one_rank_fp32")
    found: dict[str, Any] = copy.deepcopy(wanted)
    found["steps"][6]["dice"] *= 1 + 5 * golden.SAME_DATA
    found["evaluations"][-1]["oIoU"] *= 1.01
    found["made_with"]["packages"]["torch"] = "3.0"
    lines = golden.moved(found, wanted)
    assert [line.split(":")[0] for line in lines] == ["step 7, dice", "evaluation 24, oIoU"]
    message = golden.explain("one_rank_fp32", found, wanted, lines)
    for said in ("2 values", "features: the same", "now", "torch", golden.RENEW):
        assert said in message
    found["data"] = "other"
    assert [line.split(":")[0] for line in golden.moved(found, wanted)] == ["evaluation 24, oIoU"]
    found["steps"].pop()
    assert "23 steps" in golden.moved(found, wanted)[0]
