"""The part of torchrun's store that belongs to one start of the ranks.

torchrun keeps its store for all starts, in which PyTorch finds the addresses of the ranks that have ended
(pytorch issue 135712), so each start needs a prefix of its own. No variable names the start on all nodes:
each agent counts restarts for itself, and none that it makes because another node has restarted.
"""

from __future__ import annotations

import os
import secrets
import time
from datetime import timedelta

import torch.distributed as dist

from maris_fast.errors import TrainingError
from maris_fast.system.launchers import Place

LOOK = 0.05
"""Seconds between two looks of rank 0 at the other ranks' questions."""


def store_of_this_start(place: Place, timeout: timedelta) -> dist.Store | None:
    """The rendezvous store of ranks that torchrun has started, None for all others.

    Raises:
        TrainingError: a rank has not come within ``timeout``.
    """
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    store = dist.TCPStore(address, port, place.world, is_master=False, timeout=timeout)
    return dist.PrefixStore(f"start-{name_of_start(store, place, timeout)}", store)


def name_of_start(store: dist.Store, place: Place, timeout: timedelta) -> str:
    """A name that all ranks of this start get, and no other start.

    Rank 0 makes it up and gives it to each rank that asks. A question has a number of its own, so an answer
    to a process of a former start reaches no other.

    Raises:
        TrainingError: a rank has not come within ``timeout``.
    """
    own = secrets.token_hex(8)
    if place.rank:
        store.set(f"asks/{place.rank}", own)
        try:
            store.wait([f"answer/{own}"], timeout)
        except dist.DistStoreError as error:
            raise _missing(place, "rank 0", timeout) from error
        name: str = store.get(f"answer/{own}").decode()
        store.set(f"{name}/{place.rank}", "heard")
        return name
    left = list(range(1, place.world))
    latest = time.monotonic() + timeout.total_seconds()
    while left:
        for rank in left:
            if store.check([f"asks/{rank}"]):
                store.set(f"answer/{store.get(f'asks/{rank}').decode()}", own)
        left = [rank for rank in left if not store.check([f"{own}/{rank}"])]
        if left and time.monotonic() > latest:
            raise _missing(place, f"ranks {', '.join(map(str, left))}", timeout)
        time.sleep(LOOK if left else 0)
    return own


def _missing(place: Place, whom: str, timeout: timedelta) -> TrainingError:
    return TrainingError(
        f"rank {place.rank} of {place.world} has waited for {whom} for {timeout.total_seconds():g} s: see "
        "the output there, or set engine.timeout_minutes higher if ranks start that slowly"
    )
