"""A Ray actor that writes shards: it loads the encoders once, then takes one shard after another."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import maris_fast
from maris_fast.config import CacheSettings, StoreAddress
from maris_fast.data_shards.cache.destination import destination_of
from maris_fast.data_shards.cache.manifest import CacheManifest, ShardPlan
from maris_fast.data_shards.cache.workers import Worker
from maris_fast.data_shards.cache.write import CacheJob, Outlook
from maris_fast.errors import ConfigError, InputError, MarisError

T = TypeVar("T")

UNSEEN = 10.0
"""Seconds until a network file system shows one machine what another has written."""


@dataclass(frozen=True)
class Request:
    """Arguments of ``write_cache`` for all workers, the folder of relative paths, and required versions."""

    folder: Path
    dataset: Path
    out: Path | StoreAddress
    settings: CacheSettings
    splits: tuple[str, ...] | None
    leave_out_bad: bool
    scratch: Path | None
    versions: dict[str, str]


@dataclass(frozen=True)
class Count:
    """Progress of a piece of work, in images."""

    what: str = ""
    total: int = 0
    done: int = 0


def versions() -> dict[str, str]:
    """Versions that shards depend on; Ray itself compares its own and Python's."""
    return {"maris-fast": maris_fast.__version__, "torch": version("torch")}


class RayWorker:
    """All methods but ``count`` and ``stop`` are called through ``call``, one at a time."""

    def __init__(self) -> None:
        self._count = Count()
        self._stopped = threading.Event()
        self._announced = False

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a method by name.

        Raises:
            InputError: for every MarisError, as not all of them can be sent to another process.
        """
        try:
            return getattr(self, name)(*arguments)
        except MarisError as error:
            raise InputError(str(error)) from None

    def count(self) -> Count:
        return self._count

    def stop(self) -> None:
        """End the running call before its next image, leaving nothing half written."""
        self._stopped.set()

    def join(self, request: Request, of_node: int, announced: bool) -> None:
        """Load the encoders and plan, or take the plan that another worker has announced.

        Args:
            of_node: number of workers on this node, which share its disk.
        """
        if (own := versions()) != request.versions:
            raise ConfigError(
                f"this node has {_listed(own)}, the command {_listed(request.versions)}; install the same "
                "versions on all nodes, as shards depend on them"
            )
        with suppress(OSError):  # all paths may be absolute
            os.chdir(request.folder)
        if announced:
            _require_shared(request)
        self._job = CacheJob(
            request.dataset,
            request.out,
            request.settings,
            request.splits,
            worker=Worker(local_world=of_node),
            leave_out_bad=request.leave_out_bad,
            scratch=request.scratch,
            counting=self._counting,
        )

    def outlook(self, estimate: bool) -> Outlook:
        return self._job.outlook(estimate=estimate)

    def announce(self) -> None:
        if not self._announced:
            self._job.announce()
        self._announced = True

    def write(self, shard: ShardPlan) -> None:
        self.announce()
        with self._counting(shard.name, shard.images) as advance:
            self._job.write_shard(shard, advance)

    def finish(self) -> CacheManifest | None:
        """The manifest, or None if shards written by other workers are missing."""
        return _awaited(self._job.finish)

    @contextmanager
    def _counting(self, what: str, total: int, done: int = 0, **_: object) -> Iterator[Callable[[], None]]:
        def advance() -> None:
            if self._stopped.is_set():
                raise InputError("stopped")
            self._count = Count(what, total, self._count.done + 1)

        self._count = Count(what, total, done)
        yield advance


def _require_shared(request: Request) -> None:
    out = destination_of(request.out, request.scratch)
    if _awaited(lambda: out.writing() or out.manifest()) is None:
        raise InputError(
            f"{out} is not there, though another node has begun the cache; workers need a folder that all "
            "nodes share under the same path, or an s3:// or gs:// address"
        )


def _awaited(look: Callable[[], T | None]) -> T | None:
    until = time.monotonic() + UNSEEN
    while (found := look()) is None and time.monotonic() < until:
        time.sleep(1)
    return found


def _listed(names: dict[str, str]) -> str:
    return ", ".join(f"{name} {number}" for name, number in names.items())
