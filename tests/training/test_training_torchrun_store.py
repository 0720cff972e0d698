"""Which store ranks of torchrun take: one for each start, the same on all nodes."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pytest
import torch.distributed as dist

from maris_fast.errors import TrainingError
from maris_fast.system.launchers import Place, free_port
from maris_fast.train.torchrun_store import name_of_start
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]
MINUTE = timedelta(minutes=1)


def test_all_ranks_of_a_start_get_one_name_and_each_start_another() -> None:
    """The second start meets what the ranks of the first have left in the store."""
    store = dist.HashStore()
    names: list[str] = []
    for world in (3, 3, 2):
        with ThreadPoolExecutor(world) as pool:
            places = [Place(rank=rank, world=world) for rank in reversed(range(world))]
            started = [pool.submit(name_of_start, store, place, MINUTE) for place in places]
            (name,) = {one.result() for one in started}
            names.append(name)
    assert len(set(names)) == 3


def test_a_rank_that_is_started_again_before_rank_zero_has_answered_gets_the_name_too() -> None:
    store = dist.HashStore()
    store.set("asks/1", "of a process that has died")
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(name_of_start, store, Place(rank=0, world=2), MINUTE)
        wait_until(lambda: store.check(["answer/of a process that has died"]))
        second = pool.submit(name_of_start, store, Place(rank=1, world=2), MINUTE)
        assert first.result() == second.result()


@pytest.mark.parametrize(
    ("rank", "awaited"), [(0, "rank 0 of 3 has waited for ranks 1, 2 for"), (2, "waited for rank 0 for")]
)
def test_a_rank_that_does_not_come_is_named(rank: int, awaited: str) -> None:
    with pytest.raises(TrainingError, match=f"{awaited} 0.2 s.*engine.timeout_minutes"):
        name_of_start(dist.HashStore(), Place(rank=rank, world=3), timedelta(seconds=0.2))


RANK = """
import os
import sys
import time
from pathlib import Path
from maris_fast.config import EngineSettings
from maris_fast.train.ranks import join, leave
ranks = join(EngineSettings(device="cpu", timeout_minutes=1))
failed = Path(sys.argv[1])
first = not failed.exists()
print("ranks", *ranks.gather(ranks.rank), "count", os.environ["TORCHELASTIC_RESTART_COUNT"], flush=True)
if first:
    if ranks.first:
        time.sleep(600)
    failed.touch()
    os._exit(1)
leave()
"""


@pytest.mark.process
@pytest.mark.slow
def test_ranks_whose_agents_count_another_number_of_restarts_find_one_another(tmp_path: Path) -> None:
    """The agent of a node restarts its ranks because those of the other node do, which it does not count."""
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    agent = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"]
    agent += ["--rdzv-backend", "c10d", "--rdzv-endpoint", f"127.0.0.1:{free_port()}", "--rdzv-id", "two"]
    agent += ["--local-addr", "127.0.0.1", "--max-restarts", "1", str(script), str(tmp_path / "failed")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    logs = [tmp_path / "one", tmp_path / "other"]
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for log in logs:
            with log.open("wb") as file:
                nodes.append(subprocess.Popen(agent, env=environment, stdout=file, stderr=file))
        assert [node.wait(400) for node in nodes] == [0, 0], [log.read_text() for log in logs]
    finally:
        for node in nodes:
            node.kill()
    said = [line for log in logs for line in log.read_text().splitlines() if line.startswith("ranks")]
    assert sorted(said) == ["ranks 0 1 count 0"] * 3 + ["ranks 0 1 count 1"]
