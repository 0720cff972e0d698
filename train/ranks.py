"""The processes of a run: their ranks and devices, and how they agree."""

from __future__ import annotations

import math
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist

from maris_fast.config import EngineSettings
from maris_fast.errors import ConfigError, MarisError, ReportedByRankZeroError, TrainingError
from maris_fast.system.devices import keep_freed_memory, kind_of, share_cores
from maris_fast.system.launchers import Place, take_place
from maris_fast.train.progress_state import ProgressState
from maris_fast.train.torchrun_store import store_of_this_start

T = TypeVar("T")
ARRIVED, LOOK = "maris_fast/arrived", 0.5
"""A key in the ranks' store, and seconds between two looks at it."""


@dataclass(frozen=True)
class Ranks:
    """This process among all ranks. ``control`` is a gloo group for small host values, on any device.

    ``Ranks(device=...)`` is a single process, which needs no process group. ``patience``: seconds that
    ``meet`` waits at most; None: the heartbeat limits it.
    """

    device: torch.device
    rank: int = 0
    world: int = 1
    control: dist.ProcessGroup | None = None
    progress: ProgressState = field(default_factory=ProgressState)
    patience: float | None = None

    @property
    def first(self) -> bool:
        return self.rank == 0

    def from_rank_zero(self, work: Callable[[], T]) -> T:
        """What ``work`` returns on rank 0 (something small and plain), on all ranks.

        Raises:
            MarisError: on all ranks, what ``work`` raised on rank 0.
        """
        if self.world == 1:
            return work()
        answer: list[Any] = [None, None]
        error: MarisError | None = None
        if self.first:
            try:
                answer[0] = work()
            except MarisError as raised:
                error, answer[1] = raised, str(raised)
        dist.broadcast_object_list(answer, src=0, group=self.control)
        if error is not None:
            raise error
        if answer[1] is not None:
            raise ReportedByRankZeroError(answer[1])
        result: T = answer[0]
        return result

    def gather(self, value: T) -> list[T]:
        """Every rank's value (something small and plain), in the order of ranks, on all ranks."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values

    def meet(self) -> None:
        """Waits until all ranks have called this, without the timeout of a collective.

        It is for work of some ranks that takes as long as it takes: the heartbeat ends the wait if a rank
        that is waited for makes no progress.

        Raises:
            TrainingError: without a heartbeat, a rank has not come within ``patience``.
        """
        if self.control is None:
            return
        store = self.control.get_group_store()
        arrived = store.add(ARRIVED, 1)
        everyone = -(-arrived // self.world) * self.world  # of this meeting and the former ones
        latest = time.monotonic() + (math.inf if self.patience is None else self.patience)
        with self.progress.waiting():
            while (arrived := store.add(ARRIVED, 0)) < everyone:
                if time.monotonic() > latest:
                    raise TrainingError(
                        f"rank {self.rank} has waited for {everyone - arrived} of {self.world} ranks for "
                        f"{self.patience:g} s, as for a collective; set engine.timeout_minutes higher, "
                        "or engine.heartbeat_seconds above 0: it ends the wait only for a stuck rank"
                    )
                time.sleep(LOOK)


def join(settings: EngineSettings, *, alone: bool = False) -> Ranks:
    """Joins the processes that a launcher started; a process without a launcher is a run of one rank.

    Args:
        alone: whatever started this process, it is a run of one rank, without a process group and without
            DeepSpeed, whose import takes seconds.

    Raises:
        ConfigError: no CUDA device for this rank, rank variables that the launcher sets wrongly, or an
            address at which the ranks cannot connect.
        TrainingError: torchrun's ranks have not all come within the time of a collective.
    """
    if alone:
        share_cores(1)
        return Ranks(_device(kind_of(settings.device, "engine.device"), 0))
    place = take_place()
    device = _device(kind_of(settings.device, "engine.device"), place.local_rank or 0)
    # The heartbeat times out first, as it can name the culprit; the collectives time out after it.
    timeout = timedelta(minutes=settings.timeout_minutes + 1)
    _init_distributed(place, device, timeout)
    control = dist.new_group(backend="gloo", timeout=timeout)
    patience = None if settings.heartbeat_seconds else timeout.total_seconds()
    ranks = Ranks(device, place.rank, place.world, control, patience=patience)
    share_cores_of(ranks)
    return ranks


def share_cores_of(ranks: Ranks) -> None:
    """Divides this rank's cores by the ranks on them: one if the launcher binds each to cores of its own."""
    host, cores = own = (socket.gethostname(), os.sched_getaffinity(0))
    share_cores(sum(one[0] == host and not cores.isdisjoint(one[1]) for one in ranks.gather(own)))


def leave() -> None:
    """Ends the process groups together, so that no rank sees a broken connection."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


def _device(kind: Literal["cpu", "cuda"], local_rank: int) -> torch.device:
    if kind == "cpu":
        keep_freed_memory()
        return torch.device("cpu")
    count = torch.cuda.device_count()
    if local_rank >= count:
        raise ConfigError(
            f"local rank {local_rank} has no GPU of its own: {count} visible; start at most {count} ranks "
            "on this machine, or set engine.device=cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _init_distributed(place: Place, device: torch.device, timeout: timedelta) -> None:
    # Unless this is set, DeepSpeed guesses its accelerator at its first import, from what is installed.
    os.environ["DS_ACCELERATOR"] = device.type
    import deepspeed

    # The only entry that is ever read, for an operator of DeepSpeed's inference: building it takes half a
    # minute, g++ and ninja, and checking which could be built runs the C compiler on every rank.
    deepspeed.ops.__compatible_ops__ = {"deepspeed_shm_comm": False}
    backend = "nccl" if device.type == "cuda" else "gloo"
    try:
        if (store := store_of_this_start(place, timeout)) is not None:
            dist.init_process_group(
                backend, store=store, rank=place.rank, world_size=place.world, timeout=timeout
            )
        deepspeed.init_distributed(
            dist_backend=backend,
            auto_mpi_discovery=False,
            verbose=False,
            timeout=timeout,
        )
        # DeepSpeed's collectives use a copy of the world group, which it would make with PyTorch's time-out.
        deepspeed.utils.groups._WORLD_GROUP = dist.new_group(timeout=timeout)
    except dist.DistNetworkError as error:
        address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
        why = str(error).splitlines()[0]
        if "EADDRINUSE" in why:
            why = "another program, or another run, has this port"
        raise ConfigError(
            f"ranks cannot meet at {address} port {port}: {why}. Give the launcher a free one: --master_port "
            "(deepspeed), --master-port (torchrun), or set MASTER_PORT (srun, mpirun)"
        ) from error
