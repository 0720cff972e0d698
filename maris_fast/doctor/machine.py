"""Memory, cores, limits and the name of this machine, as the kernel and its containers give them."""

from __future__ import annotations

import os
import resource
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

from maris_fast.doctor.finding import Finding, broken, count, ok, size, together, warning
from maris_fast.doctor.subject import Subject
from maris_fast.errors import MarisError

GIB = 2**30
PROCESS_BYTES = 2 * GIB
"""A rank beside its rings: more than `maris-fast bench step` measures on a CPU (docs/training.md)."""
SHARED_BYTES = GIB
USUAL_FILES = 256
"""Descriptors of a process besides shards."""


@dataclass(frozen=True)
class Allowance:
    """Of a control group: bytes that may still be used, cores; None where nothing is limited."""

    memory: int | None = None
    cores: float | None = None


def memory(subject: Subject) -> Finding:
    """Host memory against the rings that ranks read into."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    allowed = allowance().memory
    in_group = allowed is not None and allowed < available
    return judge_memory(
        min(available, allowed) if allowed is not None else available,
        _ring_bytes(subject),
        subject.ranks,
        "this control group (container, job)" if in_group else "this machine",
    )


def judge_memory(available: int, rings: int, ranks: int, where: str = "this machine") -> Finding:
    """``rings``: bytes of all rings of one rank, at most."""
    came = f"{size(available)} available in {where}"
    each = f"about {size(PROCESS_BYTES)}" + (f" and {size(rings)} of rings" if rings else "")
    needed = f"{each} for {'each of ' if ranks > 1 else ''}{count(ranks, 'rank')}"
    todo = "set data.buffer_bytes lower (it counts for each rank and split), or ask for more memory"
    if ranks * rings > available:
        return broken(came, needed, todo)
    if ranks * (rings + PROCESS_BYTES) > available:
        return warning(came, needed, todo)
    return ok(f"{came}; needed: {needed}")


def _ring_bytes(subject: Subject) -> int:
    """Of the train and the val split, as ``CacheReader`` bounds them; a small split needs less."""
    if subject.training is None:
        return 0
    data = subject.training.data
    try:
        from maris_fast.data_shards.cache import read_manifest

        splits = read_manifest(data.cache).splits
    except (MarisError, OSError, ImportError):  # the check of the cache says why
        splits = {}
    rings = 0
    for name in (data.train_split, data.val_split):
        whole = (data.prefetch + 2) * splits[name].bytes if name in splits else data.buffer_bytes
        rings += min(data.buffer_bytes, whole)
    return rings


def cores(subject: Subject) -> Finding:
    """Cores that this process may use against ranks."""
    return judge_cores(len(os.sched_getaffinity(0)), allowance().cores, subject.ranks)


def judge_cores(allowed: int, quota: float | None, ranks: int) -> Finding:
    came = f"{allowed} cores" + (f", a quota of {quota:g}" if quota is not None else "")
    if quota is not None and quota < allowed:
        return warning(
            came,
            "threads for the cores that there are: each rank would start as many as the machine has",
            f"export OMP_NUM_THREADS={max(1, int(quota / ranks))}",
        )
    if allowed < ranks:
        return warning(came, f"a core for each of {ranks} ranks, and more to read with", "ask for more cores")
    return ok(came)


def limits(subject: Subject) -> Finding:
    """Open files against shards that are kept open, and the memory that NCCL shares between ranks."""
    from maris_fast.data_shards.stream.files import OPEN_FILES

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return together(
        [
            judge_open_files(soft, 2 * OPEN_FILES + USUAL_FILES),
            judge_shared_memory(shutil.disk_usage("/dev/shm").free, subject.ranks),
        ]
    )


def judge_open_files(soft: int, needed: int) -> Finding:
    if soft in (-1, resource.RLIM_INFINITY) or soft >= needed:
        return ok(f"{'any number of' if soft == -1 else soft} open files")
    return warning(
        f"{soft} open files",
        f"{needed}: each of two splits keeps up to {(needed - USUAL_FILES) // 2} shards open",
        f"ulimit -n {needed} before the run",
    )


def judge_shared_memory(free: int, ranks: int) -> Finding:
    came = f"{size(free)} free in /dev/shm"
    if ranks > 1 and free < SHARED_BYTES:
        return warning(
            came, "1 GiB where NCCL joins ranks on one machine", "start the container with --shm-size=1g"
        )
    return ok(came)


def host_name(subject: Subject) -> Finding:
    """Whether the name that gloo looks up is an address that other machines reach."""
    name = socket.gethostname()
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        addresses = sorted({str(entry[4][0]) for entry in found})
    except OSError:
        addresses = []
    chosen = os.environ.get("GLOO_SOCKET_IFNAME", "")
    interfaces = [interface for _, interface in socket.if_nameindex()]
    return judge_host_name(name, addresses, chosen, interfaces, subject.machines)


def judge_host_name(
    name: str, addresses: list[str], chosen: str, interfaces: list[str], machines: int
) -> Finding:
    """``chosen``: GLOO_SOCKET_IFNAME, which spares the look-up."""
    missing = [one for one in chosen.split(",") if one and one not in interfaces]
    if missing:
        return broken(
            f"GLOO_SOCKET_IFNAME={chosen}",
            f"one of {', '.join(interfaces)}",
            "set it to the interface that the other machines reach, or unset it",
        )
    if chosen:
        return ok(f"gloo takes interface {chosen}")
    came = f"{name} is {', '.join(addresses) or 'no address'}"
    here_only = all(one.startswith("127.") or one == "::1" for one in addresses)
    if machines > 1 and here_only:
        return broken(
            came,
            "an address that the other machines reach",
            "set GLOO_SOCKET_IFNAME (and NCCL_SOCKET_IFNAME) to the interface that they reach "
            f"({', '.join(one for one in interfaces if one != 'lo')}), or correct /etc/hosts",
        )
    if not addresses:
        return warning(
            came, "an address", f"add '127.0.1.1 {name}' to /etc/hosts, or set GLOO_SOCKET_IFNAME=lo"
        )
    return ok(came)


def allowance(root: Path = Path("/")) -> Allowance:
    """What the control groups of this process allow, version 2 or 1; ``root`` holds ``proc`` and ``sys``."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return Allowance()
    groups: list[Path] = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(",") if controllers else [""]:
            base = root / "sys/fs/cgroup" / controller
            inside = Path(path.lstrip("/"))
            # In a container the path may be the host's, and the container's own group is the base.
            groups += [base / each for each in (inside, *inside.parents)]
    rooms = [room for group in groups if (room := _memory_left(group)) is not None]
    quotas = [quota for group in groups if (quota := _quota(group)) is not None]
    return Allowance(min(rooms, default=None), min(quotas, default=None))


def _memory_left(group: Path) -> int | None:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        most, now = _number(group / limit), _number(group / used)
        if most is not None and now is not None and most < 2**60:  # version 1 says "no limit" so
            statistics = (group / "memory.stat").read_text().split()
            # Cached files count as used, and give way.
            files = dict(zip(statistics[::2], statistics[1::2], strict=False)).get("inactive_file", "0")
            return max(0, most - now + int(files))
    return None


def _quota(group: Path) -> float | None:
    try:
        share, period = (group / "cpu.max").read_text().split()
        return None if share == "max" else int(share) / int(period)
    except (OSError, ValueError):
        pass
    v1_share, v1_period = _number(group / "cpu.cfs_quota_us"), _number(group / "cpu.cfs_period_us")
    return v1_share / v1_period if v1_share and v1_share > 0 and v1_period else None


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None
