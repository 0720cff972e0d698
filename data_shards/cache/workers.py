"""Which share of the shards this process writes, from its options or a launcher's variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from maris_fast.errors import ConfigError
from maris_fast.system.launchers import place_of


@dataclass(frozen=True)
class Worker:
    """Process ``rank`` of ``world``; processes need not know of each other, nor run at the same time."""

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
    """The worker given by options, else the one that a launcher has started, else a single one.

    Raises:
        ConfigError: a rank without a world size or vice versa, a rank that is not below it, or a launcher's
            variables that contradict each other.
    """
    if (rank is None) != (world is None):
        raise ConfigError("`rank` and `world` belong together: rank 0 of world 4 is the first of four")
    if rank is not None and world is not None:
        return _checked(Worker(rank, world))
    place = place_of(environment)
    return Worker(place.rank, place.world, place.local_rank or 0, place.local_world or 1)


def _checked(worker: Worker) -> Worker:
    if not 0 <= worker.rank < worker.world:
        raise ConfigError(
            f"rank {worker.rank} of {worker.world}: ranks count from 0, so the last is {worker.world - 1}"
        )
    return worker
