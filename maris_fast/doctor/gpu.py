"""GPUs and their driver. The judgements are tested with made-up facts; no GPU has been judged yet."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

from maris_fast.doctor.finding import Finding, broken, count, not_run, ok, size, together, warning
from maris_fast.doctor.subject import Subject

# The oldest driver for each CUDA (docs.nvidia.com/deploy/cuda-compatibility, minor version compatibility).
OLDEST_DRIVER = {11: 450, 12: 525, 13: 580}
# Of the Triton kernels, and of bf16 in hardware.
OLDEST_CAPABILITY = (8, 0)
FREE_SHARE = 0.9
CPU_ONLY = "no GPU: everything runs on the CPU"


@dataclass(frozen=True)
class Driver:
    """What nvidia-smi says: its version, and who holds memory, as 'pid 12: 300 MiB'."""

    version: str
    holders: tuple[str, ...] = ()

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


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

    driver = _driver()
    if not torch.cuda.is_available():
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        return judge_absence(driver, torch.version.cuda, visible, subject.wants_gpu)
    found = [_look_at(number) for number in range(torch.cuda.device_count())]
    one = torch.ones(64, 64, device="cuda", dtype=torch.bfloat16)
    if (one @ one).sum().item() != 64**3:
        return broken(
            "a bf16 product of ones is wrong", "right products", "run another GPU, and report this one"
        )
    return judge_gpus(found, driver, subject.ranks, subject.model.mutual_attention_impl == "triton")


def judge_absence(driver: Driver | None, cuda: str | None, visible: str | None, wanted: bool) -> Finding:
    """Torch sees no GPU.

    Args:
        driver: None where nvidia-smi does not work.
        cuda: that torch was built with; None: without.
        visible: CUDA_VISIBLE_DEVICES.
        wanted: the settings take nothing else.
    """
    if driver is None:
        if wanted:
            return broken(
                "no NVIDIA driver", "a GPU (device = cuda)", "set device to auto, or run where a GPU is"
            )
        return warning(CPU_ONLY, "a GPU for runs of any size", "nothing, if this is meant")
    came = f"driver {driver.version}, and torch sees no GPU"
    if visible is not None and visible.strip() in ("", "-1"):
        return broken(
            f"{came}: CUDA_VISIBLE_DEVICES={visible!r}", "its numbers", "unset CUDA_VISIBLE_DEVICES"
        )
    if cuda is None:
        return broken(
            f"{came}: it was built without CUDA", "a torch with CUDA", "pip install -c constraints.txt torch"
        )
    oldest = OLDEST_DRIVER.get(int(cuda.split(".")[0]))
    if oldest is not None and driver.major < oldest:
        return broken(
            f"driver {driver.version} and torch for CUDA {cuda}",
            f"driver {oldest} or newer for CUDA {cuda}",
            "update the driver, or install a torch for an older CUDA",
        )
    return broken(
        f"{came} (CUDA {cuda})",
        "a GPU that torch can open",
        "in a container pass the devices on (--gpus all); else look for what nvidia-smi and `dmesg` say",
    )


def judge_gpus(found: list[Gpu], driver: Driver | None, ranks: int, triton: bool) -> Finding:
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
            judge = broken if triton else warning
            capability = ".".join(map(str, gpu.capability))
            findings.append(
                judge(
                    f"{came}: compute capability {capability}",
                    "8.0 or newer for the Triton kernels and for bf16 in hardware",
                    "set model.mutual_attention_impl=auto and engine.precision=fp32",
                )
            )
        if gpu.free < FREE_SHARE * gpu.total:
            holders = f" ({', '.join(driver.holders)})" if driver and driver.holders else ""
            findings.append(
                warning(
                    f"{came}: {size(gpu.free)} of {size(gpu.total)} free{holders}",
                    "a GPU that nobody else holds",
                    "end the other processes, or choose another with CUDA_VISIBLE_DEVICES",
                )
            )
    if findings:
        return together(findings)
    names = ", ".join(f"{gpu.name} ({size(gpu.free)} free)" for gpu in found)
    return ok(f"{names}" + (f", driver {driver.version}" if driver else ""))


def _look_at(number: int) -> Gpu:
    import torch

    free, total = torch.cuda.mem_get_info(number)
    return Gpu(
        number,
        torch.cuda.get_device_name(number),
        torch.cuda.get_device_capability(number),
        free,
        total,
    )


def _driver() -> Driver | None:
    if shutil.which("nvidia-smi") is None:
        return None

    def ask(*query: str) -> list[str]:
        command = ["nvidia-smi", *query, "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        return (
            [line.strip() for line in done.stdout.splitlines() if line.strip()] if not done.returncode else []
        )

    versions = ask("--query-gpu=driver_version")
    if not versions or not versions[0][0].isdigit():
        return None
    holders = ask("--query-compute-apps=pid,used_memory")
    return Driver(versions[0], tuple(f"pid {line.replace(', ', ': ')}" for line in holders))
