"""Rank and world size of this process, from the environment variables of the launcher that started it.

torchrun and DeepSpeed set PyTorch's own variables, which take precedence over all others: these launchers may
have been started by srun or mpirun. Without either launcher, these variables may be left over, and must agree
with srun or mpirun. srun comes last, since mpirun starts its daemons with it.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass

from maris_fast.errors import ConfigError
from maris_fast.system import process_table

LOCAL = "127.0.0.1"
USUAL_PORT = 29500

_OPENMPI_LOCAL = "OMPI_COMM_WORLD_LOCAL_RANK"
# rank, number of ranks, rank on this machine, ranks on this machine
_MPI = {
    "OpenMPI": tuple(f"OMPI_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    "MVAPICH": tuple(f"MV2_COMM_WORLD_{name}" for name in ("RANK", "SIZE", "LOCAL_RANK", "LOCAL_SIZE")),
    "MPICH or Intel MPI": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    "PMI": ("PMI_RANK", "PMI_SIZE", "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"),
}
# Ranks of launchers that do not give the world size, or of those above if their variables are incomplete.
_LONELY = (
    "OMPI_COMM_WORLD_RANK",
    "MV2_COMM_WORLD_RANK",
    "PMI_RANK",
    "PMIX_RANK",
    "PALS_RANKID",
    "FLUX_TASK_RANK",
)
# Variables that torchrun and DeepSpeed set besides PyTorch's, and that users do not set by hand.
_OF_TORCH = ("TORCHELASTIC_RUN_ID", "CROSS_RANK")


@dataclass(frozen=True)
class Place:
    """Process ``rank`` of ``world``. The local numbers are None if the launcher does not give them.

    Attributes:
        launcher: its name, for messages.
        rank_name: the environment variable that holds the rank.
    """

    rank: int = 0
    world: int = 1
    local_rank: int | None = 0
    local_world: int | None = 1
    launcher: str = ""
    rank_name: str = ""


def place_of(given: Mapping[str, str] = os.environ) -> Place:
    """The place of this process among those of its launcher; rank 0 of 1 without a launcher.

    Raises:
        ConfigError: the variables contradict each other, are incomplete, or are not numbers.
    """
    others = _mpi(given)
    srun = _srun(given)
    if srun is not None and (others is None or (others.rank, others.world) == (srun.rank, srun.world)):
        others = srun
    place = _torch(given, others) or others
    if place is None:
        for name in _LONELY:
            if given.get(name):
                raise ConfigError(
                    f"{name}={given[name]} is a launcher's, and the number of its ranks is not known here; "
                    "start with deepspeed, torchrun, srun or mpirun, or set RANK, WORLD_SIZE, LOCAL_RANK, "
                    f"MASTER_ADDR and MASTER_PORT (for one process alone: unset {name})"
                )
        return Place()
    if not 0 <= place.rank < place.world:
        raise ConfigError(
            f"{place.launcher} calls this process rank {place.rank} of {place.world}: ranks count from 0, so "
            f"the last is {place.world - 1}; unset {place.rank_name}, or start with a launcher"
        )
    return place


def own_rank() -> int:
    """The rank of this process, for messages; 0 if it is not known."""
    try:
        return place_of().rank
    except ConfigError:
        return 0


def take_place() -> Place:
    """Set the variables of this rank as torchrun would, so that PyTorch and DeepSpeed find them.

    Raises:
        ConfigError: as ``place_of``; or the launcher gives no local rank or no address of rank 0.
    """
    given = os.environ
    place = place_of(given)
    if place.world == 1:
        if given.get("RANK") and given.get("MASTER_ADDR") and given.get("MASTER_PORT"):
            given.update(_told_deepspeed(place.local_rank or 0))
        else:
            be_alone()
        return place
    address, port = _meeting(place, given)
    if place.local_rank is None:
        raise ConfigError(
            f"{place.launcher} does not say which rank of its machine this is; set LOCAL_RANK (and "
            "LOCAL_WORLD_SIZE), or start with torchrun"
        )
    given.update(
        RANK=str(place.rank),
        WORLD_SIZE=str(place.world),
        LOCAL_RANK=str(place.local_rank),
        LOCAL_WORLD_SIZE=str(place.local_world or 1),
        MASTER_ADDR=address,
        MASTER_PORT=port,
        **_told_deepspeed(place.local_rank),
    )
    return place


def be_alone() -> None:
    """Make this process the only rank of its run, whatever has started it."""
    os.environ.update(alone())


def alone() -> dict[str, str]:
    """The environment of the only rank of a run, as DeepSpeed's launcher would set it."""
    return {
        **{"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "CROSS_RANK": "0"},
        **{"MASTER_ADDR": LOCAL, "MASTER_PORT": str(free_port())},
        **_told_deepspeed(0),
    }


def _told_deepspeed(local_rank: int) -> dict[str, str]:
    """OpenMPI's local rank, corrected: DeepSpeed requires it to be LOCAL_RANK.

    It is not in a launcher that mpirun has started, whose ranks inherit the launcher's own.
    """
    return {_OPENMPI_LOCAL: str(local_rank)} if os.environ.get(_OPENMPI_LOCAL) else {}


def free_port() -> int:
    """A free TCP port of this machine."""
    with socket.socket() as listener:
        listener.bind((LOCAL, 0))
        port: int = listener.getsockname()[1]
        return port


def first_host(nodes: str) -> str:
    """The first host of a Slurm node list: ``gpu-003`` of ``gpu-[003-005,9],login``."""
    first = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\])?([^,]*)", nodes)
    assert first is not None
    return "".join(part or "" for part in first.groups())


def tasks_per_node(counts: str) -> list[int]:
    """Slurm's task counts per node as a list: 2, 2, 2, 1 for ``2(x3),1``."""
    tasks: list[int] = []
    for one in counts.split(","):
        count, _, times = one.partition("(x")
        tasks += [int(count)] * int(times.rstrip(")") or 1)
    return tasks


def _torch(given: Mapping[str, str], others: Place | None) -> Place | None:
    rank, world = _number(given, "RANK"), _number(given, "WORLD_SIZE")
    if rank is not None and world is not None:
        if others is not None and others.world > 1 and (rank, world) != (others.rank, others.world):
            _require_torch_launcher(given, others)
        local_world = _number(given, "LOCAL_WORLD_SIZE") or _number(given, "LOCAL_SIZE")  # DeepSpeed's
        return Place(
            rank, world, _number(given, "LOCAL_RANK") or 0, local_world or 1, "the environment", "RANK"
        )
    if others is not None and (rank in (None, others.rank)) and (world in (None, others.world)):
        return None
    for there, missing in (("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")):
        if given.get(there) and not given.get(missing):
            raise ConfigError(
                f"{there}={given[there]} is set and {missing} is not, and launchers set both; unset {there} "
                "for one process alone, or start with deepspeed, torchrun, srun or mpirun"
            )
    return None


def _require_torch_launcher(given: Mapping[str, str], others: Place) -> None:
    """Reject leftover variables: ``RANK=0 WORLD_SIZE=1`` would make every rank a run of its own."""
    if not any(map(given.get, _OF_TORCH)):
        raise ConfigError(
            f"RANK={given['RANK']} WORLD_SIZE={given['WORLD_SIZE']} are set, and {others.launcher} calls "
            f"this process rank {others.rank} of {others.world}; unset RANK, WORLD_SIZE and LOCAL_RANK where "
            f"they are left over, or {others.rank_name} where they are right"
        )


def _mpi(given: Mapping[str, str]) -> Place | None:
    places = [
        Place(rank, world, _number(given, names[2]), _number(given, names[3]), launcher, names[0])
        for launcher, names in _MPI.items()
        if (rank := _number(given, names[0])) is not None and (world := _number(given, names[1])) is not None
    ]
    known = [place for place in places if place.local_rank is not None]
    return next(iter([*known, *places]), None)


def _srun(given: Mapping[str, str]) -> Place | None:
    # Only in a job step: a batch script also has SLURM_PROCID, and a number of tasks for a step that it has
    # not started.
    rank, world = _number(given, "SLURM_PROCID"), _number(given, "SLURM_STEP_NUM_TASKS")
    if rank is None or world is None:
        return None
    counts = given.get("SLURM_STEP_TASKS_PER_NODE") or given.get("SLURM_TASKS_PER_NODE") or str(world)
    node = _number(given, "SLURM_NODEID") or 0
    tasks = dict(enumerate(tasks_per_node(counts)))
    return Place(rank, world, _number(given, "SLURM_LOCALID"), tasks.get(node), "srun", "SLURM_PROCID")


def _meeting(place: Place, given: Mapping[str, str]) -> tuple[str, str]:
    """Address and port of rank 0: the same on all ranks, and different for another job on these machines."""
    address, port = given.get("MASTER_ADDR"), given.get("MASTER_PORT")
    if place.launcher == "srun":
        job, step = _number(given, "SLURM_JOB_ID") or 0, _number(given, "SLURM_STEP_ID") or 0
        address = address or first_host(given.get("SLURM_STEP_NODELIST", ""))
        port = port or str(20000 + (97 * job + step) % 10000)
    elif not address and place.rank_name != "RANK" and place.local_world == place.world:
        address = LOCAL
        port = port or str(20000 + _launcher(place.rank_name) % 10000)
    if not address:
        raise ConfigError(
            f"{place.launcher} has started {place.world} ranks and does not say where rank 0 "
            "is; set MASTER_ADDR to its machine and MASTER_PORT to a free port there, the same for all ranks "
            "(mpirun -x MASTER_ADDR=... of OpenMPI, mpiexec -genv MASTER_ADDR ... of others)"
        )
    return address, port or str(USUAL_PORT)


def _launcher(rank_name: str) -> int:
    """PID of the nearest ancestor that has no rank itself."""
    pid = os.getppid()
    while rank_name in (process_table.environment(pid) or {}):
        pid = process_table.parent(pid) or 1
    return pid


def _number(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name, "").strip()
    if not text:
        return None
    if not text.isdecimal():
        raise ConfigError(f"{name}={text!r} is not a number of ranks or of one; unset it, or set it right")
    return int(text)
