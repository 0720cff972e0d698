"""This machine: where kernels are built, memory and what is shared of it, GPUs and their driver.

The judgements on GPUs are tested with made-up facts; no GPU has been judged yet.
"""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maris_fast.doctor.finding import Finding, broken, count, not_run, ok, size, together, warning
from maris_fast.doctor.subject import Subject
from maris_fast.errors import MarisError

GIB = 2**30
KERNELS_BYTES = GIB
"""Room that is asked for where kernels are built; a run's take megabytes."""
PROCESS_BYTES = 2 * GIB
"""A rank beside its rings: more than `maris-fast bench step` measures on a CPU (docs/training.md)."""
SHARED_BYTES = GIB
# The oldest driver for each CUDA (docs.nvidia.com/deploy/cuda-compatibility, minor version compatibility).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
# Of the Triton kernels, and of bf16 in hardware.
OLDEST_CAPABILITY = (8, 0)
FREE_SHARE = 0.9


@dataclass(frozen=True)
class Place:
    """What the nearest existing folder above a path is: ``why_not`` says why nothing can be written there."""

    path: Path
    free: int
    why_not: str | None


def look_at(path: Path) -> Place:
    """Writes a file into the nearest existing folder at or above ``path``, and removes it."""
    path = path.expanduser().absolute()
    here = next(one for one in (path, *path.parents) if one.exists())
    why_not = None
    if not here.is_dir():
        why_not = "is a file, not a folder"
    else:
        try:
            with tempfile.TemporaryFile(dir=here) as file:
                file.write(b"doctor")
        except OSError as error:
            why_not = f"cannot be written: {error.strerror}"
    return Place(here, shutil.disk_usage(here).free, why_not)


def kernel_folders(_: Subject) -> Finding:
    """Where Triton and torch.compile keep what they built: writable, with room."""
    usual = {
        "TRITON_CACHE_DIR": Path.home() / ".triton" / "cache",
        "TORCHINDUCTOR_CACHE_DIR": Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}",
    }
    return together(
        judge_kernel_folder(name, look_at(Path(os.environ.get(name) or path))) for name, path in usual.items()
    )


def judge_kernel_folder(variable: str, place: Place) -> Finding:
    todo = f"export {variable}=/tmp/{variable.lower()}, or another folder on a disk of this machine"
    if place.why_not:
        return broken(f"{variable}: {place.path} {place.why_not}", "a folder that can be written", todo)
    if place.free < KERNELS_BYTES:
        return warning(f"{variable}: {size(place.free)} free on {place.path}", "1 GiB", todo)
    return ok(f"{place.path} ({size(place.free)} free)")


def memory(subject: Subject) -> Finding:
    """Host memory against the rings that ranks read into."""
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    available = int(lines["MemAvailable"].split()[0]) * 1024
    allowed = memory_allowed()
    if allowed is not None and allowed < available:
        return judge_memory(
            allowed, _ring_bytes(subject), subject.ranks, "this control group (container, job)"
        )
    return judge_memory(available, _ring_bytes(subject), subject.ranks)


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


def memory_allowed(root: Path = Path("/")) -> int | None:
    """Bytes that the control groups of this process, version 2 or 1, still allow; None: no limit.

    ``root`` holds ``proc`` and ``sys``.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return None
    rooms = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        base = root / "sys/fs/cgroup" / ("memory" if "memory" in controllers else "")
        inside = Path(path.lstrip("/"))
        # In a container the path may be the host's, and the container's own group is the base.
        rooms += [_memory_left(base / each) for each in (inside, *inside.parents)]
    return min((room for room in rooms if room is not None), default=None)


def _memory_left(group: Path) -> int | None:
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        try:
            most, now = (int((group / name).read_text()) for name in (limit, used))
        except (OSError, ValueError):  # "max"
            continue
        if most < 2**60:  # version 1 says "no limit" so
            statistics = (group / "memory.stat").read_text().split()
            # Cached files count as used, and give way.
            files = dict(zip(statistics[::2], statistics[1::2], strict=False)).get("inactive_file", "0")
            return max(0, most - now + int(files))
    return None


def limits(subject: Subject) -> Finding:
    """The memory that NCCL shares between ranks."""
    return judge_shared_memory(shutil.disk_usage("/dev/shm").free, subject.ranks)


def judge_shared_memory(free: int, ranks: int) -> Finding:
    came = f"{size(free)} free in /dev/shm"
    if ranks > 1 and free < SHARED_BYTES:
        return warning(
            came, "1 GiB where NCCL joins ranks on one machine", "start the container with --shm-size=1g"
        )
    return ok(came)


@dataclass(frozen=True)
class Gpu:
    """One that torch sees; memory in bytes."""

    number: int
    name: str
    capability: tuple[int, int]
    free: int
    total: int


def gpus(subject: Subject) -> Finding:
    """Whether there are GPUs for all ranks, that torch can use and nobody else does."""
    if subject.refuses_gpu:
        return not_run("the settings say device = cpu")
    import torch

    if not torch.cuda.is_available():
        return judge_absence(_driver(), torch.version.cuda, os.environ, subject.wants_gpu)
    found = [
        Gpu(
            number,
            torch.cuda.get_device_name(number),
            torch.cuda.get_device_capability(number),
            *torch.cuda.mem_get_info(number),
        )
        for number in range(torch.cuda.device_count())
    ]
    one = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
    if (one @ one).sum().item() != 64**3:
        return broken(
            "a bf16 product of ones is wrong", "right products", "run another GPU, and report this one"
        )
    return judge_gpus(found, subject.ranks, triton=subject.model.mutual_attention_impl == "triton")


def judge_absence(
    driver: str | None, cuda: str | None, environment: Mapping[str, str], wanted: bool
) -> Finding:
    """Torch sees no GPU.

    Args:
        driver: its version; None where nvidia-smi does not work.
        cuda: that torch was built with; None: without.
        environment: its CUDA_VISIBLE_DEVICES may hide them.
        wanted: the settings take nothing else.
    """
    if driver is None:
        if wanted:
            return broken(
                "no NVIDIA driver", "a GPU (device = cuda)", "set device to auto, or run where a GPU is"
            )
        came = "no GPU: everything runs on the CPU"
        return warning(came, "a GPU for runs of any size", "nothing, if this is meant")
    came, visible = f"driver {driver}, and torch sees no GPU", environment.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in ("", "-1"):
        came += f": CUDA_VISIBLE_DEVICES={visible!r}"
        return broken(came, "its numbers", "unset CUDA_VISIBLE_DEVICES")
    if cuda is None:
        return broken(
            f"{came}: it was built without CUDA", "a torch with CUDA", "pip install -c constraints.txt torch"
        )
    oldest = OLDEST_DRIVER.get(int(cuda.split(".")[0]))
    if oldest is not None and int(driver.split(".")[0]) < oldest:
        return broken(
            f"driver {driver} and torch for CUDA {cuda}",
            f"driver {oldest} or newer for CUDA {cuda}",
            "update the driver, or install a torch for an older CUDA",
        )
    return broken(
        f"{came} (CUDA {cuda})",
        "a GPU that torch can open",
        "in a container pass the devices on (--gpus all); else look for what nvidia-smi and `dmesg` say",
    )


def judge_gpus(found: list[Gpu], ranks: int, *, triton: bool) -> Finding:
    """GPUs that torch sees; ``triton``: the settings name the Triton kernels, which need sm_80."""
    findings = []
    if ranks > len(found):
        findings.append(
            broken(
                count(len(found), "GPU"),
                f"one for each of {ranks} ranks on this machine",
                "start fewer ranks, or ask for more GPUs (srun: --gpus-per-node)",
            )
        )
    for gpu in found:
        came = f"GPU {gpu.number}, {gpu.name}"
        if gpu.capability < OLDEST_CAPABILITY:
            findings.append(
                (broken if triton else warning)(
                    f"{came}: compute capability {'.'.join(map(str, gpu.capability))}",
                    "8.0 or newer for the Triton kernels and for bf16 in hardware",
                    "set model.mutual_attention_impl=auto and engine.precision=fp32",
                )
            )
        if gpu.free < FREE_SHARE * gpu.total:
            findings.append(
                warning(
                    f"{came}: {size(gpu.free)} of {size(gpu.total)} free",
                    "a GPU that nobody else holds",
                    "end the other processes (nvidia-smi), or choose another with CUDA_VISIBLE_DEVICES",
                )
            )
    if findings:
        return together(findings)
    return ok(", ".join(f"{gpu.name} ({size(gpu.free)} free)" for gpu in found))


def _driver() -> str | None:
    if shutil.which("nvidia-smi") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    version = done.stdout.partition("\n")[0].strip()
    return version if done.returncode == 0 and version[:1].isdigit() else None
