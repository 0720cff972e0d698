"""The benchmarks of the cache, small: every way does its work, and each has its figure."""

from __future__ import annotations

from pathlib import Path

from maris_fast.bench.made_up import write_made_up_cache
from maris_fast.bench.reading import OURS, RAW, RAW_TWO, STOCK, measured


def test_every_way_of_reading_is_held_against_stock_and_raw(tmp_path: Path) -> None:
    write_made_up_cache(tmp_path / "cache", 6, grids=[(8, 8)], channels=64)
    rows = {row["way"]: row for row in measured(tmp_path / "cache", 2, cold=True)}
    assert (rows[STOCK]["to_stock"], rows[RAW]["to_raw"], rows[RAW_TWO]["to_raw_two"]) == (1, 1, 1)
    assert all(row["gb_per_s"] > 0 for row in rows.values())
    assert [name for name, row in rows.items() if "plan_rates" in row] == [OURS]
