"""The block-size table, compiled ahead of time for the GPUs it is meant for, and counts from its SASS."""

from __future__ import annotations

import pytest

from maris_fast.kernels.mutual_attention.blocks import FP32_WORDS, WORD_BLOCKS
from tests.kernels.compiling import Rows, compiled_by, too_large

pytestmark = [pytest.mark.process, pytest.mark.slow]

# For all rows of every architecture and reading: python -m maris_fast.kernels.mutual_attention.compiled.
WITH_READING, OF_SASS, SASS_WITH_READING = (
    "90 --reading --only bf16/32",
    "90 --sass",
    "90 --sass --reading --only bf16/32",
)
OTHERS = ("89 --only bf16/64", "100 --only bf16/64", "120 --only bf16/32")


@pytest.fixture(scope="module")
def rows() -> dict[str, Rows]:
    return compiled_by("mutual_attention", "80", "90", WITH_READING, OF_SASS, SASS_WITH_READING, *OTHERS)


@pytest.mark.parametrize("architecture", [80, 90])
def test_every_row_fits_and_nothing_spills(rows: dict[str, Rows], architecture: int) -> None:
    compiled = rows[str(architecture)]
    walks = {(c["kernel"], c["dtype"], c["words"]) for c in compiled}
    for dtype in ("bf16", "fp32"):
        for words in (words for words in WORD_BLOCKS if dtype == "bf16" or words <= FP32_WORDS):
            assert ("mutual_attention_bwd_kernel", dtype, words) in walks
            assert ("mutual_attention_fwd_chunked_kernel", dtype, words) in walks
    by_tma = {c["words"] for c in compiled if c["kernel"] == "mutual_attention_fwd_hopper_kernel"}
    assert by_tma == ({16, 32, 64} if architecture == 90 else set())
    assert {c["kernel"] for c in compiled if c["unaligned"]} >= {"mutual_attention_bwd_kernel"}
    assert too_large(compiled, architecture) == []


def test_with_other_readings_the_usual_rows_fit_and_do_not_spill(rows: dict[str, Rows]) -> None:
    compiled = rows[WITH_READING]
    by_tma = {c["kernel"] for c in compiled if "hopper" in c["kernel"]}
    assert by_tma == {"mutual_attention_fwd_hopper_kernel", "mutual_attention_bwd_hopper_kernel"}
    assert too_large(compiled, 90) == []


@pytest.mark.parametrize("command", OTHERS)
def test_what_other_gpus_differ_in_fits_and_does_not_spill(rows: dict[str, Rows], command: str) -> None:
    assert {c["words"] for c in rows[command]} == {int(command.partition("/")[2])}
    assert too_large(rows[command], int(command.split()[0])) == []


def test_hoppers_forward_takes_few_instructions_and_clocks_a_row(rows: dict[str, Rows]) -> None:
    counted = rows[OF_SASS]
    forward = {row["words"]: row for row in counted if row["kernel"] == "mutual_attention_fwd_hopper_kernel"}
    assert forward.keys() == {16, 32, 64}
    for row in forward.values():
        # Z_v and f_lav are 512 bytes per row each; loads of the weights are 1024, from the cache.
        assert row["instructions_per_row"] <= 120
        assert row["shared_clocks_per_row"] <= 20
        assert 1024 < row["l2_bytes_per_row"] <= 2200
        assert row["spilled_bytes"] == 0
    by_tma = [row for row in counted if row["kernel"] == "mutual_attention_bwd_hopper_kernel"]
    assert {row["words"] for row in by_tma} == {16, 32}
    for row in (*by_tma, *rows[SASS_WITH_READING][-2:]):
        assert row["kernel"] == "mutual_attention_bwd_hopper_kernel"
        assert row["instructions_per_row"] <= 330
        assert row["l2_bytes_per_row"] <= 3200
        assert row["spilled_bytes"] == 0
    backward = {row["words"] for row in counted if row["kernel"] == "mutual_attention_bwd_kernel"}
    assert backward == set(WORD_BLOCKS)
