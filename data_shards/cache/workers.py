"""Which share of the shards this process writes: by its options, or by what a launcher says of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from maris_fast.errors import ConfigError

# rank, world size, rank on this machine, processes on this machine
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # and deepspeed
_SRUN = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_TASKS_PER_NODE")


@dataclass(frozen=True)
class Worker:
    """Process ``rank`` of ``world``; they need not know of each other, nor run at the same time."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @property
    def first(self) -> bool:
        return self.rank == 0


def find_worker(
    rank: int | None = None, world: int | None = None, environment: Mapping[str, str] = os.environ
) -> Worker:
    """The worker that options name, else that torchrun, deepspeed or srun started, else one alone.

    Raises:
        ConfigError: a rank without a world size or the reverse, or a rank that is not below it.
    """
    if (rank is None) != (world is None):
        raise ConfigError("--rank and --world belong together: --rank 0 --world 4 is the first of four")
    if rank is not None and world is not None:
        return _checked(Worker(rank, world))
    for names in (_TORCHRUN, _SRUN):
        if names[0] in environment and names[1] in environment:
            numbers = [_number(environment.get(name, "")) for name in names]
            rank, world, local_rank, local_world = numbers
            return _checked(Worker(rank or 0, world or 1, local_rank or 0, local_world or 1))
    return Worker()


def _number(text: str) -> int | None:
    # SLURM_TASKS_PER_NODE is "4(x2)" on two nodes of four.
    digits = text.split("(")[0].split(",")[0]
    return int(digits) if digits.isdigit() else None


def _checked(worker: Worker) -> Worker:
    if not 0 <= worker.rank < worker.world:
        raise ConfigError(
            f"rank {worker.rank} of {worker.world}: ranks count from 0, so the last is {worker.world - 1}"
        )
    return worker
