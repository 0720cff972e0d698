"""A cache written by workers of a Ray cluster: the same bytes, whatever happens to workers and nodes."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import pytest

from maris_fast.data_shards.cache import ray_crew, ray_worker, write_cache
from maris_fast.data_shards.cache.ray_crew import RayJob, room
from maris_fast.data_shards.cache.ray_worker import RayWorker, Request, versions
from maris_fast.data_shards.cache.verify import verify_cache
from maris_fast.errors import InputError
from maris_fast.system import progress
from maris_fast.system.launchers import free_port
from tests.command_line import maris_fast, said
from tests.data.cache_dataset import write_dataset
from tests.data.far_servers import s3_server
from tests.data.test_cache_resume import OVERRIDES, assert_same, command, many_records, settings
from tests.folders import files_below
from tests.training.processes import run, start, torchrun

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

T = TypeVar("T")

pytestmark = pytest.mark.process

NODE = {"num_cpus": 2, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Ray cluster of two nodes on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    cluster.add_node(**NODE)
    yield cluster
    cluster.shutdown()


@pytest.fixture(autouse=True)
def address(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "cluster" in request.fixturenames:
        monkeypatch.setenv("RAY_ADDRESS", request.getfixturevalue("cluster").address)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(
        tmp_path_factory.mktemp("on ray") / "dataset", {"train": many_records(40), "val": many_records(3)}
    )


@pytest.fixture(scope="module")
def whole(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "cache"
    write_cache(dataset, out, settings(), progress=False)
    return out


def writers(out: Path) -> set[int]:
    """Ids of the processes that are writing a shard."""
    found = set()
    for lock in out.glob(".*.tar.owner.json"):
        with suppress(OSError, ValueError):  # released, or not written yet
            found.add(json.loads(lock.read_text())["pid"])
    return found


@contextmanager
def beside(work: Callable[[], object]) -> Iterator[None]:
    """Run ``work`` in another thread; it must succeed, and end soon after the block."""
    with ThreadPoolExecutor(1) as threads:
        done = threads.submit(work)
        yield
        done.result(timeout=60)


def awaited(found: Callable[[], T]) -> T:
    deadline = time.monotonic() + 120
    while not (value := found()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def kill_writers(out: Path, moments: Sequence[float], chance: random.Random) -> None:
    """For each moment, kill a process that writes shards, that many seconds after it is resumed.

    The others are stopped meanwhile, or they would write all shards before the next kill; the next victim is
    one of them, while workers start to replace those that were killed.
    """
    stopped: set[int] = set()
    killed: set[int] = set()

    def some_stopped() -> set[int]:
        for pid in writers(out) - stopped - killed:
            os.kill(pid, signal.SIGSTOP)
            stopped.add(pid)
        return stopped

    try:
        for moment in moments:
            awaited(some_stopped)
            victim = chance.choice(sorted(stopped))
            os.kill(victim, signal.SIGCONT)
            time.sleep(moment)
            os.kill(victim, signal.SIGKILL)
            stopped.remove(victim)
            killed.add(victim)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)


@pytest.mark.slow
def test_workers_killed_at_ten_random_moments_change_no_byte(cluster: Cluster, tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": many_records(100)})
    out, small = tmp_path / "cache", settings(shard_bytes=1)
    chance = random.Random(7)
    with beside(lambda: kill_writers(out, [chance.uniform(0, 0.04) for _ in range(10)], chance)):
        result = maris_fast(*command(dataset, out, "--no-estimate", "shard_bytes=1", "--on", "ray")[3:])
    assert result.exit_code == 0, result.output
    assert not verify_cache(out).problems
    write_cache(dataset, tmp_path / "whole", small, progress=False)
    assert_same(out, tmp_path / "whole")


@pytest.mark.slow
def test_ray_torchrun_and_one_process_write_the_same_bytes_while_nodes_come_and_go(
    cluster: Cluster, dataset: Path, whole: Path, tmp_path: Path
) -> None:
    on_ray, by_torchrun = tmp_path / "ray", tmp_path / "torchrun"
    before = {node.node_id for node in cluster.list_all_nodes()}

    stopped: set[int] = set()
    with RayJob(dataset, on_ray, settings()) as job:
        assert job.outlook(estimate=True).workers == 2
        with beside(job.write):
            try:
                while len(stopped) < 2:  # one on each node, so that work is left for the third
                    stopped.update(awaited(lambda: writers(on_ray) - stopped))
                    for pid in stopped:
                        os.kill(pid, signal.SIGSTOP)
                third = cluster.add_node(**NODE)
                awaited(lambda: third.node_id in job.written_by.values() and writers(on_ray) - stopped)
                cluster.remove_node(third, allow_graceful=False)
            finally:
                for pid in stopped:
                    os.kill(pid, signal.SIGCONT)
    assert set(job.written_by.values()) > before
    done = run(*torchrun(2, "-m"), *command(dataset, by_torchrun)[2:])
    assert done.returncode == 0, done.stderr
    assert_same(on_ray, whole)
    assert_same(by_torchrun, whole)


def test_ctrl_c_leaves_whole_shards_and_the_same_command_resumes(
    dataset: Path, whole: Path, tmp_path: Path
) -> None:
    """On a cluster that the command starts itself."""
    out = tmp_path / "cache"
    on_ray = (
        "env",
        "RAY_ADDRESS=local",
        *command(dataset, out, "--no-estimate", "--on", "ray", "--workers", "2"),
    )
    first = start(*on_ray)
    awaited(lambda: len(list(out.glob("*.tar"))) >= 2)
    first.send_signal(signal.SIGINT)
    said_first, _ = first.communicate(timeout=90)
    names = {path.name for path in out.iterdir()}
    shards = {name for name in names if name.endswith(".tar")}
    assert first.returncode == 130
    assert said_first.splitlines()[-1] == (
        f"stopped; {len(shards)} of 17 shards are written; the same command resumes"
    )
    assert names == {"writing.json", *shards, *(name.replace(".tar", ".index.npz") for name in shards)}
    again = run(*on_ray)
    assert again.returncode == 0, again.stderr
    assert again.stderr.splitlines() == [f"reading {dataset}; loading the encoders' libraries"]
    assert f"in {17 - len(shards)} shards ({len(shards)} are written); free:" in again.stdout
    assert re.search(
        r"^encode: 43 of 43 images, .*\ntrain: 40 images, .*\nval: .*\nnote: ", again.stdout, re.M
    )
    assert_same(out, whole)


def test_a_shard_that_ends_every_worker_and_a_node_of_another_version_are_errors_by_name(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = write_dataset(tmp_path / "dataset", {"train": many_records(40)})
    out = tmp_path / "cache"
    monkeypatch.setattr(ray_crew, "DEATHS", 2)
    with beside(lambda: kill_writers(out, [0, 0], random.Random(0))):
        result = maris_fast(
            *command(dataset, out, "--no-estimate", "shard_bytes=1000000000", "--on", "ray")[3:]
        )
    assert result.exit_code == 2
    assert "2 workers ended at train-000000.tar, the last on node" in said(result)
    assert "0 of 1 shards are written; the same command resumes" in said(result)
    monkeypatch.setattr(ray_crew, "versions", lambda: {"maris-fast": "9.9"})
    result = maris_fast(*command(dataset, tmp_path / "other", "--on", "ray")[3:])
    assert re.search(
        r"error: node \S+ \(\S+\): this node has maris-fast 0\S+, torch \S+, the command", said(result)
    )
    assert "the command maris-fast 9.9; install the same versions on all nodes" in said(result)


def test_workers_upload_to_an_address_the_same_bytes_as_to_a_folder(
    dataset: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nothing").mkdir()
    with s3_server(tmp_path / "nothing", monkeypatch) as far:
        given = ("--on", "ray", "--workers", "2", "--scratch", str(tmp_path / "scratch"), "--no-estimate")
        caching = (*command(dataset, tmp_path)[:4], str(dataset), "--out", far.address, *OVERRIDES)
        done = run("env", "RAY_ADDRESS=local", *caching, *given)
        assert done.returncode == 0, done.stderr
        assert {name: far.get(name) for name in far.names()} == files_below(whole)


def test_where_others_use_a_node_the_free_one_does_the_work(
    cluster: Cluster,
    dataset: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    class Other:
        def here(self) -> str:
            return str(ray.get_runtime_context().get_node_id())

    monkeypatch.setattr(ray_crew, "BUSY", 1.0)
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    with RayJob(dataset, tmp_path / "cache", settings()) as job:
        node = next(node["NodeID"] for node in ray.nodes() if node["Alive"])
        there = NodeAffinitySchedulingStrategy(node, soft=False)
        other = ray.remote(num_cpus=2, scheduling_strategy=there)(Other).remote()
        assert ray.get(other.here.remote()) == node
        job.write()
        assert len(set(job.written_by.values()) - {node}) == 1
        assert node not in job.written_by.values()
    assert capsys.readouterr().out.splitlines()[-1].startswith("encode: 43 of 43 images, ")
    assert_same(tmp_path / "cache", whole)


def test_without_workers_or_a_cluster_it_is_an_error(
    cluster: Cluster, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    caching = command(dataset, tmp_path / "cache", "--on", "ray")[3:]
    monkeypatch.setattr(ray_crew, "PATIENCE", 1.0)
    result = maris_fast(*caching, "device=cuda")
    assert result.exit_code == 2
    assert "no worker has run for 1 s (device = cuda): the Ray cluster has 2 nodes, with 4 cores" in said(
        result
    )
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    assert "error: no connection to Ray ([Errno 111] Connection refused); set RAY_ADDRESS" in said(
        maris_fast(*caching)
    )


def test_a_node_that_does_not_share_the_folder_is_an_error(
    cluster: Cluster, dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_worker, "UNSEEN", 0.0)
    request = Request(tmp_path, dataset, tmp_path / "elsewhere", settings(), None, False, None, versions())
    with pytest.raises(InputError, match=r"elsewhere is not there, though another node has begun the cache;"):
        RayWorker().call("join", request, 1, True)

    def lose_a_shard(out: Path) -> None:
        awaited(lambda: list(out.glob("*.tar")))[0].unlink()

    with (
        RayJob(dataset, tmp_path / "cache", settings()) as job,
        beside(lambda: lose_a_shard(tmp_path / "cache")),
        pytest.raises(InputError, match=r"have written 17 shards, and not all are in .*cache; workers need"),
    ):
        job.write()


@pytest.mark.parametrize(
    ("resources", "device", "workers", "expected"),
    [
        ({"CPU": 64.0, "GPU": 8.0}, "cuda", None, (8, 4)),
        ({"CPU": 16.0, "GPU": 8.0}, "cuda", None, (8, 2)),
        ({"CPU": 4.0, "GPU": 8.0}, "cuda", None, (4, 1)),
        ({"CPU": 64.0, "GPU": 8.0}, "cuda", 2, (2, 4)),
        ({"CPU": 64.0}, "cuda", None, (0, 4)),
        ({"CPU": 64.0, "GPU": 8.0}, "cpu", None, (1, 64)),
        ({"CPU": 64.0}, "cpu", 3, (3, 21)),
        ({"CPU": 2.0}, "cpu", 3, (2, 1)),
        ({"memory": 1e9}, "cpu", None, (0, 0)),
    ],
)
def test_a_node_gets_a_worker_a_gpu_or_one_with_all_its_cores(
    resources: dict[str, float], device: str, workers: int | None, expected: tuple[int, int]
) -> None:
    assert room(resources, device, workers) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workers", 2), "--workers is for --on ray"),
        (("--on", "ray", "--rank", 0, "--world", 2), "--on ray shares the work itself"),
    ],
)
def test_options_that_contradict_each_other_are_refused(
    dataset: Path, tmp_path: Path, options: tuple[object, ...], message: str
) -> None:
    result = maris_fast(*command(dataset, tmp_path / "cache")[3:], *options)
    assert result.exit_code == 2
    assert message in said(result)
