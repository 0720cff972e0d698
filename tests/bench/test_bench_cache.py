"""The benchmarks of the cache at a small size: every way works and has its figure."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from maris_fast.bench import far_reading, many_images
from maris_fast.bench.drawing.plain_tables import (
    far_reading_block,
    many_images_block,
    nearest_peer_block,
    reading_block,
)
from maris_fast.bench.fake_cache import write_fake_cache
from maris_fast.bench.page_cache import drop, resident
from maris_fast.bench.reading import all_rows, start_up
from maris_fast.bench.reading_names import BUSY, COLD, OURS, RAW_TWO, WARM
from maris_fast.bench.reading_peers import PEERS, STOCK
from maris_fast.bench.results import Suite
from maris_fast.bench.writing import AS_IT_IS, encoding, shards
from maris_fast.bench.writing import RAW as RAW_WRITE
from maris_fast.data_shards.cache.verify import verify_cache
from tests.data.cache_dataset import tiny_settings


def test_every_way_of_writing_is_timed_and_the_last_leaves_a_sound_cache(tmp_path: Path) -> None:
    rows = encoding(tmp_path, tiny_settings(batch_size=2), images=3, rounds=2)
    assert (rows[0]["way"], rows[0]["to_first"], rows[0]["to_before"]) == (AS_IT_IS, 1, 1)
    assert len(rows) == 5
    assert all(row["images_per_s"] > 0 and len(row["seconds"]) == 2 for row in rows)
    report = verify_cache(tmp_path / "cache0", progress=False)
    assert not report.problems
    assert report.manifest is not None
    assert report.manifest.splits["train"].images == 3


def test_the_shard_writer_is_held_against_a_plain_write(tmp_path: Path) -> None:
    rows = {row["way"]: row for row in shards(tmp_path / "shards", rounds=1, images=1)}
    assert rows[RAW_WRITE]["to_raw"] == 1
    assert all(row["gb_per_s"] > 0 for row in rows.values())
    # As many bytes as in int8: three levels of ViT-H on a grid of 64 x 48, and a little more.
    assert 1 < (tmp_path / "shards" / "raw").stat().st_size / (3 * 64 * 48 * 1280) < 1.1


@pytest.mark.process
@pytest.mark.timeout(600)
def test_every_way_of_reading_is_held_against_ours_stock_and_raw(tmp_path: Path) -> None:
    write_fake_cache(tmp_path / "cache", 12, grids=[(8, 8)], channels=64)
    rows = all_rows(tmp_path / "cache", 1)
    measured = {(row["situation"], row["way"]): row for row in rows if "gb_per_s" in row}
    for situation in (WARM, COLD, BUSY):
        assert measured[situation, OURS]["to_ours"] == measured[situation, STOCK]["to_stock"] == 1
    assert measured[WARM, RAW_TWO]["to_raw_two"] == 1
    assert 0 < measured[BUSY, OURS]["of_pace"] <= 1
    assert [key for key, row in measured.items() if "plan_rates" in row] == [(COLD, OURS)]
    left_out = {row["way"] for row in rows if "left_out" in row}
    for peer in PEERS:  # each has its figures, or a reason for having none
        assert (WARM, peer.name) in measured or {peer.name, peer.form} & left_out
    damage = {row["way"]: (row["flipped_byte"], row["cut_file"]) for row in rows if "cut_file" in row}
    assert damage[OURS] == ("error with the file",) * 2
    assert damage["ours: ring, 2 threads, checksums never"] == ("goes unseen", "error with the file")
    assert damage["safetensors, a file an image, in process"] == ("goes unseen", "error")
    suite = Suite("reading", "2026-01-01", "0", False, {"device": "cpu", "processor_cores": 2}, rows)
    rows.append(start_up(tmp_path / "hollow", 1000))
    drawn = reading_block(suite)
    assert all(row["way"] in drawn for row in rows[:-1])
    assert nearest_peer_block(suite).startswith("Read throughput of the fastest other reader, ours = 1: ")


def reading_row(situation: str, way: str, to_ours: float, rounds: int, load: float) -> dict[str, Any]:
    told = {"rounds": rounds, "images": 60, "load_average": [0.0, load, 0.0], "step_s": 0.035}
    ratios = {"gb_per_s": 1.0, "to_ours": to_ours, "to_raw_two": 1.0, "to_stock": 1.0, "of_pace": 1.0}
    return {"situation": situation, "way": way, **told, **ratios}


def test_each_situation_has_its_own_rounds_load_and_peers_left_out() -> None:
    ways = {OURS: 1.0, "near, in process": 0.9, "far, in process": 0.5}
    rows = [
        reading_row(situation, way, to_ours, rounds, load)
        for situation, rounds, load in ((WARM, 7, 2.7), (COLD, 3, 2.2), (BUSY, 5, 1.1))
        for way, to_ours in ways.items()
        if (situation, way) != (COLD, "near, in process")
    ]
    rows.append({"situation": COLD, "way": "near, in process", "left_out": "its pages stayed"})
    rows.append({"way": "absent", "left_out": "not installed"})
    rows.append({"way": "ours: start-up", "images": 10, "open_s": 1.0, "plan_s": 1.0})
    suite = Suite("reading", "2026-01-01", "0", False, {"device": "cpu", "processor_cores": 2}, rows)
    caption = reading_block(suite).splitlines()[-1]
    assert (
        f"Rounds: {WARM} 7 (load average 2.7), {COLD} 3 (load average 2.2), {BUSY} 5 (load average 1.1)."
        in caption
    )
    told = nearest_peer_block(suite)
    assert f"0.90 from a {WARM} (near, in process; left out: absent, not installed)" in told
    assert (
        f"0.50 from a {COLD} (far, in process; left out: near, its pages stayed; "
        "left out: absent, not installed)"
    ) in told


def test_pages_are_in_the_page_cache_until_they_are_dropped(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(range(256)) * 4096 * 4)
    assert resident([file]) == 1
    drop([file])
    if resident([file]):
        pytest.skip("this file system keeps its pages")
    file.read_bytes()
    assert resident([file]) == 1


@pytest.mark.process
def test_addresses_are_held_against_the_local_disk(tmp_path: Path) -> None:
    write_fake_cache(tmp_path / "cache", 6, grids=[(8, 8)], channels=64)
    every = far_reading.measured(tmp_path / "cache", 2, tmp_path / "kept")
    rows = [row for row in every if "left_out" not in row]  # litdata need not be installed
    assert (rows[0]["way"], rows[0]["to_local"]) == (far_reading.LOCAL, 1)
    at_once = {row["way"].rpartition(", ")[2]: row["to_local"] for row in rows}
    assert at_once["1 request"] < at_once["4 requests"]  # six times the latency instead of twice
    assert list((tmp_path / "kept").glob("*.kept"))
    environment = {"device": "cpu", "processor_cores": 2}
    drawn = far_reading_block(Suite("far_reading", "2026-01-01", "0", False, environment, every))
    assert all(row["way"] in drawn for row in rows)


@pytest.mark.process
def test_memory_hardly_grows_with_the_number_of_images(tmp_path: Path) -> None:
    peaks = []
    for images in (1000, 5000):
        rows = many_images.measured(tmp_path / str(images), images)
        peaks.append({row["way"]: row["peak_mb"] for row in islice(rows, 2)})
    few, many = peaks
    for way in (many_images.IMPORT, many_images.MIX):
        # Records would take 18 KB per image. Numbers take less than 1 KB; the rest is for the allocator.
        assert 1000 * (many[way] - few[way]) / 4000 < 4, way
    environment = {"device": "cpu", "processor_cores": 2}
    row = {"way": many_images.PLAN, "images": 1000, "peak_mb": 1.0, "cpu_s": 2.0, "load": 0.5}
    drawn = many_images_block(Suite("many_images", "2026-01-01", "0", False, environment, [row]))
    assert "| cache --plan | 1 MiB, 2 s |" in drawn
