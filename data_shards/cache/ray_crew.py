"""Write a cache with workers of a Ray cluster: each free worker takes the next shard.

A worker writes a shard as ``CacheJob`` does, so the bytes are the same as without Ray. A shard that a lost
worker was writing is started again by another. Nodes that join during the work get workers as well.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from maris_fast.config import CacheSettings, StoreAddress
from maris_fast.data_shards.cache.manifest import CacheManifest, ShardPlan
from maris_fast.data_shards.cache.ray_worker import Count, RayWorker, Request, versions
from maris_fast.data_shards.cache.write import DECODERS, Outlook
from maris_fast.errors import InputError, MarisError
from maris_fast.system.progress import counting
from maris_fast.system.ray_cluster import ray_cluster

LOOK = 0.5
"""Seconds between polls of nodes and workers."""
PATIENCE = 120.0
"""Seconds after which the run fails if no worker has started or given a sign of life."""
BUSY = 10.0
"""Seconds for a worker to start on a node with room; after that another node gets one instead."""
GRACE = 30.0
"""Seconds for stopped workers to finish their current image."""
DEATHS = 4
"""Number of workers lost at one shard, or at the start on one node, that ends the run."""
ASKED = "asked"
"""Concurrency group whose calls are answered while a shard is being written."""

log = logging.getLogger(__name__)


@dataclass
class _Call:
    name: str
    arguments: tuple[Any, ...] = ()
    shard: ShardPlan | None = None
    done: bool = False
    result: Any = None

    def __str__(self) -> str:
        return self.shard.name if self.shard else self.name


@dataclass
class _Member:
    """A worker, its node, and its current call; a ``ref`` without a call is its start."""

    actor: Any
    node: str
    node_name: str
    ref: Any
    since: float
    answered: bool = False
    call: _Call | None = None
    answer: Any = None
    count: Count = field(default_factory=Count)

    def ask(self, method: Any) -> Any:
        return method.options(concurrency_group=ASKED).remote()


def room(resources: dict[str, float], device: str, workers: int | None) -> tuple[int, int]:
    """The number of workers for a node, and the cores of each, to decode beside a GPU or to encode.

    Args:
        resources: of the node, as Ray names them.
        workers: as for ``RayJob``.
    """
    cores = int(resources.get("CPU", 0))
    if device == "cuda":
        gpus = min(int(resources.get("GPU", 0)), cores)
        count = min(gpus, workers or gpus)
        return count, min(DECODERS, cores // max(1, count))
    count = min(cores, workers or 1)
    return count, cores // max(1, count)


class RayJob:
    """``CacheJob`` on a Ray cluster; a context manager that stops its workers on exit.

    Args:
        workers: per node; None for one per GPU, and one per node without GPUs. At most one per GPU or core.

    Other arguments as for ``write_cache``.

    Raises:
        ConfigError: from ``__enter__``, if Ray is not installed or cannot connect.
    """

    def __init__(
        self,
        dataset: Path,
        out: Path | StoreAddress,
        settings: CacheSettings,
        splits: Sequence[str] | None = None,
        *,
        workers: int | None = None,
        leave_out_bad: bool = False,
        scratch: Path | None = None,
    ) -> None:
        self._request = Request(
            folder=Path.cwd(),
            dataset=dataset.absolute(),
            out=out.absolute() if isinstance(out, Path) else out,
            settings=settings,
            splits=tuple(splits) if splits else None,
            leave_out_bad=leave_out_bad,
            scratch=scratch.absolute() if scratch else None,
            versions=versions(),
        )
        self._workers = workers
        self._members: list[_Member] = []
        self._deaths: Counter[str] = Counter()
        self._planned: Outlook | None = None
        self._announced = False
        self.written_by: dict[str, str] = {}
        """Ids of nodes, by the names of the shards that they wrote in this run."""
        self._stack = ExitStack()

    def __enter__(self) -> RayJob:
        self._ray = self._stack.enter_context(ray_cluster())
        device = self._request.settings.device
        if device == "auto":
            gpus = any(node["Resources"].get("GPU") for node in self._nodes().values())
            device = "cuda" if gpus else "cpu"
        settings = self._request.settings.model_copy(update={"device": device})
        self._request = replace(self._request, settings=settings)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def plan(self) -> tuple[ShardPlan, ...]:
        return self._planned.writing.plan if self._planned else ()

    def written(self) -> int:
        """Number of shards that are complete now."""
        missing = self._planned.missing if self._planned else ()
        return len(self.plan) - len(missing) + len(self.written_by)

    def outlook(self, *, estimate: bool) -> Outlook:
        """Like ``CacheJob.outlook``, by the first worker; raises as ``write``."""
        call = _Call("outlook", (estimate,))
        with _Bar() as bar:

            def show() -> None:
                for member in self._members:
                    if member.count.what == "check" and (bar.begun or member.count.done < member.count.total):
                        bar.at("check", member.count.total, 0, member.count.done)

            self._run([call], show)
        workers = sum(self._room(node)[0] for node in self._nodes().values())
        self._planned = replace(call.result, workers=max(1, min(workers, len(call.result.missing))))
        return self._planned

    def write(self) -> CacheManifest:
        """Write the missing shards, and the manifest.

        Raises:
            InputError: as ``CacheJob.write``, naming the node; workers with other versions; a folder that not
                all nodes share; a shard that crashes every worker; no workers.
        """
        planned = self._planned or self.outlook(estimate=False)
        self._run([_Call("announce")])
        self._announced = True
        calls = [_Call("write", (shard,), shard) for shard in planned.missing]
        total = sum(shard.images for shard in self.plan)
        first = total - sum(shard.images for shard in planned.missing)
        with _Bar() as bar:

            def show() -> None:
                done = sum(call.shard.images for call in calls if call.done and call.shard)
                at = sum(one.count.done for one in self._members if one.count.what == str(one.call))
                bar.at("encode", total, first, first + done + at)

            self._run(calls, show)
        finish = _Call("finish")
        self._run([finish])
        if finish.result is None:
            nodes = len(set(self.written_by.values()))
            raise InputError(
                f"workers on {nodes} nodes have written {len(self.written_by)} shards, and not all are in "
                f"{planned.out}; workers need a folder that all nodes share under the same path, or an "
                "s3:// or gs:// address"
            )
        manifest: CacheManifest = finish.result
        return manifest

    def _run(self, calls: Sequence[_Call], show: Callable[[], None] = lambda: None) -> None:
        """Execute the calls, each on any worker."""
        todo = deque(calls)
        self._heard = time.monotonic()
        try:
            while left := sum(not call.done for call in calls):
                self._recruit(left)
                for member in self._members:
                    if member.ref is None and todo:
                        member.call = todo.popleft()
                        member.ref = member.actor.call.remote(member.call.name, *member.call.arguments)
                for member in self._ready():
                    self._settle(member, todo)
                self._listen()
                show()
        except BaseException:
            self._stop()
            raise

    def _progress(self) -> str:
        written = f"{self.written()} of {len(self.plan)} shards are written; " if self.plan else ""
        return f"{written}the same command resumes"

    def _nodes(self) -> dict[str, Any]:
        return {node["NodeID"]: node for node in self._ray.nodes() if node["Alive"]}

    def _room(self, node: dict[str, Any]) -> tuple[int, int]:
        return room(node["Resources"], self._request.settings.device, self._workers)

    def _recruit(self, most: int) -> None:
        """Start workers on nodes with room, up to ``most``, not counting those that wait for busy nodes."""
        for node, known in self._nodes().items():
            count, cores = self._room(known)
            there = sum(member.node == node for member in self._members)
            begun = time.monotonic() - BUSY
            running = sum(member.answered or member.since > begun for member in self._members)
            for _ in range(min(count - there, most - running)):
                self._start(known, cores, count)

    def _start(self, node: dict[str, Any], cores: int, of_node: int) -> None:
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        # On a CPU Ray sets OMP_NUM_THREADS to the cores of an actor.
        options = {
            "num_cpus": cores,
            "num_gpus": int(self._request.settings.device == "cuda"),
            "concurrency_groups": {ASKED: 1},
            "scheduling_strategy": NodeAffinitySchedulingStrategy(node["NodeID"], soft=False),
        }
        actor = self._ray.remote(**options)(RayWorker).remote()
        ref = actor.call.remote("join", self._request, of_node, self._announced)
        name = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        self._members.append(_Member(actor, node["NodeID"], name, ref, since=time.monotonic()))

    def _ready(self) -> list[_Member]:
        refs = {member.ref: member for member in self._members if member.ref is not None}
        if not refs:
            time.sleep(LOOK)
            return []
        first, others = self._ray.wait(list(refs), timeout=LOOK)
        more = self._ray.wait(others, num_returns=len(others), timeout=0)[0] if first and others else []
        return [refs[ref] for ref in (*first, *more)]

    def _settle(self, member: _Member, todo: deque[_Call]) -> None:
        """Process a call's outcome; if interrupted, this can be repeated."""
        call = member.call
        try:
            result = self._ray.get(member.ref)
        except self._ray.exceptions.RayActorError as error:
            self._lose(member, call, error)
            if call:
                todo.append(call)  # last, so that a shard that crashes every worker delays no other
            return
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, MarisError):
                raise InputError(f"node {member.node_name}: {error.cause}") from None
            raise
        if call is None:
            self._deaths.pop(member.node, None)
        else:
            call.result, call.done = result, True
            if call.shard:
                self.written_by[call.shard.name] = member.node
        member.ref = member.call = None

    def _lose(self, member: _Member, call: _Call | None, error: Exception) -> None:
        self._members.remove(member)
        with suppress(Exception):
            self._ray.kill(member.actor)  # it may be alive but unreachable
        what = str(call) if call else "the start"
        self._deaths[str(call or member.node)] += 1
        if self._deaths[str(call or member.node)] >= DEATHS:
            # The last line of a traceback, or of what Ray knows about a process, is the most informative.
            reason = str(error).partition(" Some common causes")[0].strip().splitlines()[-1].strip()
            raise InputError(
                f"{DEATHS} workers ended at {what}, the last on node {member.node_name} ({reason}); look "
                "there for a lack of memory (`dmesg`) and into Ray's logs (/tmp/ray/session_latest/logs); "
                f"{self._progress()}"
            )
        log.warning("a worker on node %s ended at %s; another takes over", member.node_name, what)

    def _listen(self) -> None:
        """Poll the progress of all workers.

        Raises:
            InputError: none has answered for ``PATIENCE`` seconds.
        """
        now = time.monotonic()
        for member in self._members:
            if member.answer is None:
                member.answer = member.ask(member.actor.count)
            elif self._ray.wait([member.answer], timeout=0)[0]:
                with suppress(self._ray.exceptions.RayError):  # the call reports it
                    member.count, self._heard = self._ray.get(member.answer), now
                    member.answered = True
                member.answer = None
        if now - self._heard > PATIENCE:
            free = self._ray.available_resources()
            device = self._request.settings.device
            raise InputError(
                f"no worker has run for {PATIENCE:.0f} s (device = {device}): the Ray cluster has "
                f"{len(self._nodes())} nodes, with {free.get('CPU', 0):g} cores and {free.get('GPU', 0):g} "
                "GPUs free. Add nodes, wait until others have ended, or set `workers` or device; "
                f"{self._progress()}"
            )

    def _stop(self) -> None:
        """End all workers; those that are writing clean up first."""
        writing = {member.ref: member for member in self._members if member.call and member.call.shard}
        for member in writing.values():
            member.ask(member.actor.stop)
        if writing:
            for ref in self._ray.wait(list(writing), num_returns=len(writing), timeout=GRACE)[0]:
                with suppress(Exception):
                    self._settle(writing[ref], deque())
        for member in self._members:
            with suppress(Exception):
                self._ray.kill(member.actor)
        self._members.clear()


class _Bar:
    """A progress bar that follows a count; work that is lost and repeated is not shown twice."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self.begun = False

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def at(self, what: str, total: int, first: int, done: int) -> None:
        """Show ``done`` of ``total``, of which ``first`` were done before."""
        if not self.begun:
            self.begun, self._shown = True, first
            self._advance = self._stack.enter_context(counting(what, total, first))
        while self._shown < done:
            self._advance()
            self._shown += 1
