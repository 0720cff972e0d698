"""Training across two nodes: two network namespaces with addresses of their own, and the real launchers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from maris_fast.train import checkpoints
from tests.training.nodes import INTERFACE, Node, two_nodes
from tests.training.processes import NOTHING_TO_SEE, Launched, run, tiny_training

pytestmark = pytest.mark.process

SILENCE, PORT = 6, "29517"

Nodes = tuple[Node, Node]


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    with ExitStack() as stack:
        try:
            pair = stack.enter_context(two_nodes())
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no network namespaces here: {error} {getattr(error, 'stderr', '')}")
        yield pair


def training(cache: Path, folder: Path, *more: str) -> tuple[str, ...]:
    return tiny_training(cache, folder, f"engine.heartbeat_seconds={SILENCE}", *more)


def launched(
    stack: ExitStack, node: Node, log: Path, launcher: tuple[str, ...], command: tuple[str, ...]
) -> Launched:
    return stack.enter_context(
        Launched(*node.command(*launcher, *command), log=log, GLOO_SOCKET_IFNAME=INTERFACE)
    )


def test_torchrun_trains_on_two_nodes_and_a_cut_network_ends_both(
    cache: Path, tmp_path: Path, nodes: Nodes
) -> None:
    folder = tmp_path / "run"
    changes = ("engine.zero_stage=2", "schedule.epochs=500", "run.checkpoint_every=2")
    command = training(cache, folder, *changes)
    with ExitStack() as stack:
        started = []
        for number, node in enumerate(nodes):
            launcher = (
                *("torchrun", "--nnodes", "2", "--node-rank", str(number), "--nproc-per-node", "1"),
                *("--master-addr", nodes[0].address, "--master-port", PORT),
            )
            started.append(launched(stack, node, tmp_path / f"log-{number}", launcher, command))
        started[0].reaches(folder, 5)
        nodes[1].cut()
        for one in started:
            one.ends(SILENCE + 24)
            assert one.process.returncode != 0
    for one, other in zip(started, (1, 0), strict=True):
        (message,) = [line for line in one.output.splitlines() if line.startswith("error: ")]
        assert f"rank {other} on node-{other}" in message
        assert f"silent for {SILENCE} s, last seen after step" in message
        assert "the network is cut" in message
    found = checkpoints.newest(folder)
    assert found is not None
    # Resume on one node alone.
    done = run(sys.executable, *command, "run.stop_after_steps=2", "--resume", "auto")
    assert done.returncode == 0, done.stderr[-4000:]
    assert f"stopped after step {found[1].step + 2}" in done.stdout


def test_deepspeed_trains_on_two_nodes_without_ssh(cache: Path, tmp_path: Path, nodes: Nodes) -> None:
    folder, hosts = tmp_path / "run", tmp_path / "hostfile"
    hosts.write_text("".join(f"{node.name} slots=1\n" for node in nodes))
    with ExitStack() as stack:
        started = []
        for number, node in enumerate(nodes):
            launcher = (
                *("deepspeed", "--hostfile", str(hosts), "--no_ssh", "--node_rank", str(number)),
                *("--master_addr", nodes[0].address, "--master_port", PORT),
            )
            command = training(cache, folder, *NOTHING_TO_SEE)
            started.append(launched(stack, node, tmp_path / f"log-{number}", launcher, command))
        for one in started:
            one.ends(180)
            assert one.process.returncode == 0, one.output[-4000:]
    assert "finished 8 steps" in started[0].output
    assert json.loads((folder / "environment.json").read_text())["ranks"] == 2
