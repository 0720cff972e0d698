"""Ranks that meet, as those of a run do: over gloo, and over NCCL where each has a GPU."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from multiprocessing.connection import Connection, wait

from maris_fast.doctor.finding import Finding, broken, count, ok
from maris_fast.doctor.subject import Subject

SECONDS = 40.0
PATIENCE = 0.1
"""Minutes, and joining adds one: less than the check's limit, so that a missing rank is its finding."""
TODO = (
    "see that every rank was started, and let them reach each other on any port; on several networks set "
    "GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME) to the interface that all reach"
)


def ranks_meet(subject: Subject) -> Finding:
    """All ranks of a launcher, or else two processes started here, join and add up a number."""
    began = time.monotonic()
    if subject.launched:
        who = f"{count(subject.world, 'rank')} on {count(subject.machines, 'machine')}"
        device = _kind(subject, gpus=1)
        why_not = _why_not_met(device)
    else:
        who = "two ranks"
        device = _kind(subject, gpus=2)
        why_not = _two_here(device)
    over = "NCCL and gloo" if device == "cuda" else "gloo"
    if why_not:
        return broken(f"{who} did not meet over {over}: {why_not}", "ranks that meet", TODO)
    return ok(f"{who} meet over {over} and add up ({time.monotonic() - began:.1f} s)")


def _kind(subject: Subject, *, gpus: int) -> str:
    import torch

    return "cuda" if torch.cuda.device_count() >= gpus and not subject.refuses_gpu else "cpu"


def _why_not_met(device: str) -> str:
    """Joins as a run does, and adds up; what went wrong, or nothing."""
    import torch
    import torch.distributed as dist

    from maris_fast.config import EngineSettings
    from maris_fast.train.ranks import join, leave

    try:
        ranks = join(EngineSettings.model_validate({"device": device, "timeout_minutes": PATIENCE}))
        total = torch.ones(1, device=ranks.device)
        dist.all_reduce(total)
        numbers = ranks.gather(ranks.rank)
        leave()
    except Exception as error:  # whatever the network or a library came up with is the finding
        traceback.print_exc()
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    if total.item() != ranks.world or numbers != list(range(ranks.world)):
        return f"ranks {numbers} add up to {total.item():g}"
    return ""


def _two_here(device: str) -> str:
    """Why two ranks on this machine did not meet; nothing if they did."""
    from maris_fast.system.launchers import free_port

    # CUDA cannot be used in a fork of a process that has looked for it.
    context = (
        multiprocessing.get_context("spawn") if device == "cuda" else multiprocessing.get_context("fork")
    )
    port, ends = free_port(), {}
    for rank in range(2):
        receiver, sender = context.Pipe(duplex=False)
        context.Process(target=_one_of_two, args=(rank, port, device, sender), daemon=False).start()
        sender.close()
        ends[receiver] = rank
    deadline = time.monotonic() + SECONDS
    while ends:
        ready = wait(list(ends), timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            return f"rank {min(ends.values())} was not there after {SECONDS:g} s"
        for end in ready:
            assert isinstance(end, Connection)
            rank = ends.pop(end)
            try:
                said = end.recv()
            except EOFError:
                said = "ended without a word"
            if said:
                return f"rank {rank}: {said}"
    return ""


def _one_of_two(rank: int, port: int, device: str, sender: Connection) -> None:
    own = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": 2}
    os.environ.update({name: str(value) for name, value in own.items()})
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    sender.send(_why_not_met(device))
