"""A run started in each supported way, and the sentences that its ranks see."""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import pytest

from maris_fast.data_shards.stream import CacheReader
from maris_fast.system.launchers import first_host, tasks_per_node
from tests.training.processes import NOTHING_TO_SEE, Launched, free_port, srun_task, tiny_training, torchrun

pytestmark = pytest.mark.process

SEEN = Path(__file__).with_name("seen.py")
EPOCHS = 2


def start(stack: ExitStack, ranks: int, command: tuple[str | Path, ...], folder: Path) -> list[Launched]:
    """Start by plain python, srun (only its environment variables; it is not installed here), or torchrun."""
    environment = {"SEEN": str(folder)}
    if ranks == 1:
        return [stack.enter_context(Launched(sys.executable, *command, log=folder / "log", **environment))]
    if ranks == 3:
        return [stack.enter_context(Launched(*torchrun(3), *command, log=folder / "log", **environment))]
    port, tasks = free_port(), []
    for task in range(2):
        srun = srun_task(task, port)
        log = folder / f"log-{task}"
        tasks.append(stack.enter_context(Launched(sys.executable, *command, log=log, **environment, **srun)))
    return tasks


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_every_expression_is_seen_once_an_epoch(cache: Path, tmp_path: Path, ranks: int) -> None:
    few = (f"schedule.epochs={EPOCHS}", "run.evaluate_every=null", *NOTHING_TO_SEE)
    _, *words = tiny_training(cache, tmp_path / "run", *few)
    command = (SEEN, *words)
    with ExitStack() as stack:
        for launched in start(stack, ranks, command, tmp_path):
            launched.ends(180)
            assert launched.process.returncode == 0, launched.output[-4000:]
    records = [
        (rank, record["step"], record["sentences"])
        for rank in range(ranks)
        for record in map(json.loads, (tmp_path / f"{rank}.jsonl").read_text().splitlines())
    ]
    with CacheReader(cache, "train") as reader:
        steps, expressions = reader.steps_per_epoch(8), reader.expressions
    assert {step for _, step, _ in records} == set(range(EPOCHS * steps))
    for epoch in range(EPOCHS):
        seen = Counter(
            sentence for _, step, sentences in records if step // steps == epoch for sentence in sentences
        )
        assert len(seen) == expressions
        assert set(seen.values()) == {1}


def test_the_names_that_srun_gives() -> None:
    assert first_host("gpu-[003-005,9],login") == "gpu-003"
    assert first_host("a1,a2") == "a1"
    assert first_host("rack[1-2]-node,x") == "rack1-node"
    assert tasks_per_node("2(x3),1") == [2, 2, 2, 1]
    assert tasks_per_node("8") == [8]
