"""Lines of ranks that write to the same file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.training.processes import ROOT

LINES, RANKS = 2000, 3
TELL = """
import sys
from maris_fast.system.terminal import write_line
sys.stdin.readline()
for _ in range({lines}):
    write_line("error: rank {rank} says so", sys.{stream})
"""


@pytest.mark.process
def test_lines_of_unbuffered_ranks_stay_whole_in_a_shared_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("ab") as shared:
        ranks = [
            subprocess.Popen(
                # As torchrun and deepspeed start their ranks.
                [sys.executable, "-u", "-c", TELL.format(lines=LINES, rank=rank, stream=stream)],
                stdin=subprocess.PIPE,
                stdout=shared,
                stderr=shared,
                cwd=ROOT,
            )
            for rank, stream in zip(range(RANKS), ("stdout", "stderr", "stderr"), strict=True)
        ]
        for one in ranks:
            assert one.stdin is not None
            one.stdin.write(b"go\n")
            one.stdin.close()
        assert [one.wait(60) for one in ranks] == [0] * RANKS
    told = log.read_text().splitlines()
    assert sorted(set(told)) == [f"error: rank {rank} says so" for rank in range(RANKS)]
    assert len(told) == LINES * RANKS
