"""Checks of this machine: packages, kernel caches, shared memory, GPUs, and whether kernels run.

The judgements on GPUs are tested with made-up values; no GPU has been judged yet.
"""

from __future__ import annotations

import getpass
import importlib
import os
import platform
import shutil
import tempfile
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from maris_fast.doctor.finding import Finding, broken, not_run, ok, size, together, warning
from maris_fast.doctor.subject import Subject
from maris_fast.system.terminal import count

PROJECT = "maris-fast"
IMPORTED = (
    "torch",
    "torchvision",
    "triton",
    "xformers",
    "deepspeed",
    "open_clip",
    "segment_anything",
    "pycocotools.mask",
    "crc32c",
)
SHOWN = ("torch", "torchvision", "triton", "xformers", "deepspeed", "numpy")
GIB = 2**30
FREE_SHARE = 0.9
"""Share of a GPU's memory that other processes should leave free."""
# Required by the Triton kernels, and by bf16 in hardware.
OLDEST_CAPABILITY = (8, 0)
WORDS, CHANNELS = 7, 64


def packages(_: Subject) -> Finding:
    """Compare Python and the installed packages with what this project needs."""
    python, needed = _requirements()
    # Of several versions, the first one on the path is imported.
    installed: dict[str, str] = {}
    for one in metadata.distributions():
        installed.setdefault(canonicalize_name(one.name), one.version)
    return together([judge_python(platform.python_version(), python), judge_packages(needed, installed)])


def judge_python(version: str, needed: str) -> Finding:
    if SpecifierSet(needed).contains(version, prereleases=True):
        return ok(f"Python {version}")
    return broken(
        f"Python {version}", f"Python {needed}", "make another environment: make setup PYTHON=python3.12"
    )


def judge_packages(needed: Iterable[str], installed: Mapping[str, str]) -> Finding:
    """``installed``: versions by canonical name."""
    wrong = []
    for each in map(Requirement, needed):
        version = installed.get(canonicalize_name(each.name))
        applies = each.marker is None or each.marker.evaluate({"extra": ""})
        if applies and not (version and each.specifier.contains(version, prereleases=True)):
            came, wanted = f"{each.name} {version or 'is not installed'}", f"{each.name}{each.specifier}"
            todo = "pip install -c constraints.txt -e . in the clone installs versions that belong together"
            wrong.append(broken(came, wanted, todo))
    if wrong:
        return together(wrong)
    return ok(", ".join(f"{name} {installed[name]}" for name in SHOWN if name in installed))


def _requirements() -> tuple[str, tuple[str, ...]]:
    """Required Python and packages, of the clone that this runs from or else of the installed package."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        said = tomllib.loads(project.read_text())["project"]
        return said["requires-python"], tuple(said["dependencies"])
    about = metadata.metadata(PROJECT)
    needed = (each for each in metadata.requires(PROJECT) or () if "extra ==" not in each)
    return about["Requires-Python"], tuple(needed)


def imports(_: Subject) -> Finding:
    """Whether the packages with compiled parts can be imported together in one process."""
    findings = []
    for name in IMPORTED:
        try:
            importlib.import_module(name)
        except Exception as error:  # a wheel built for another torch fails in many ways
            came = f"{name} cannot be imported: {type(error).__name__}: {error}"
            todo = f"pip install --force-reinstall -c constraints.txt {name.split('.')[0]}"
            if name == "torchvision":
                todo = "install the torchvision of this torch, both with or both without CUDA"
            findings.append(broken(came, f"{name} for this Python and this torch", todo))
    return together(findings) if findings else ok(f"{', '.join(IMPORTED)} load together")


@dataclass(frozen=True)
class Folder:
    """The nearest existing folder at or above a path; ``why_not``: why it cannot be written, if it cannot."""

    path: Path
    free: int
    why_not: str | None


def look_at(path: Path) -> Folder:
    """Write a file into the nearest existing folder at or above ``path``, and remove it."""
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
    return Folder(here, shutil.disk_usage(here).free, why_not)


def kernel_folders(_: Subject) -> Finding:
    """Whether the cache folders of Triton and torch.compile are writable and have room."""
    usual = {
        "TRITON_CACHE_DIR": Path.home() / ".triton" / "cache",
        "TORCHINDUCTOR_CACHE_DIR": Path(tempfile.gettempdir()) / f"torchinductor_{getpass.getuser()}",
    }
    return together(
        judge_kernel_folder(name, look_at(Path(os.environ.get(name) or path))) for name, path in usual.items()
    )


def judge_kernel_folder(variable: str, place: Folder) -> Finding:
    todo = f"export {variable}=/tmp/{variable.lower()}, or another folder on a disk of this machine"
    if place.why_not:
        return broken(f"{variable}: {place.path} {place.why_not}", "a folder that can be written", todo)
    if place.free < GIB:
        return warning(f"{variable}: {size(place.free)} free on {place.path}", "1 GiB", todo)
    return ok(f"{place.path} ({size(place.free)} free)")


def shared_memory(subject: Subject) -> Finding:
    """Whether /dev/shm has room for what NCCL shares between ranks."""
    return judge_shared_memory(shutil.disk_usage("/dev/shm").free, subject.ranks)


def judge_shared_memory(free: int, ranks: int) -> Finding:
    came = f"{size(free)} free in /dev/shm"
    if ranks > 1 and free < GIB:
        return warning(
            came, "1 GiB where NCCL joins ranks on one machine", "start the container with --shm-size=1g"
        )
    return ok(came)


@dataclass(frozen=True)
class Gpu:
    """A GPU that torch sees; memory in bytes."""

    number: int
    name: str
    capability: tuple[int, int]
    free: int
    total: int


def gpus(subject: Subject) -> Finding:
    """Whether there are GPUs for all ranks that torch can use and no other process occupies."""
    if subject.refuses_gpu:
        return not_run("the settings say device = cpu")
    import torch

    try:
        torch.cuda.init()
    except Exception as error:  # no driver or an old one, a torch without CUDA, no device to open
        driver = shutil.which("nvidia-smi") is not None
        return judge_absence(str(error).splitlines()[0], driver, subject.wants_gpu)
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


def judge_absence(said: str, driver: bool, wanted: bool) -> Finding:
    """Judge that PyTorch cannot open a GPU.

    Args:
        said: its error message.
        driver: whether an NVIDIA driver is installed.
        wanted: whether the settings require a GPU.
    """
    if driver:
        todo = "fix what PyTorch reports; in a container, pass the devices through (--gpus all)"
        return broken(f"an NVIDIA driver, and PyTorch opens no GPU: {said}", "a GPU that opens", todo)
    if wanted:
        return broken(said, "a GPU (device = cuda)", "set device to auto, or run where a GPU is")
    came = "no GPU: everything runs on the CPU"
    return warning(came, "a GPU for runs of any size", "nothing, if this is intended")


def judge_gpus(found: list[Gpu], ranks: int, *, triton: bool) -> Finding:
    """Judge the GPUs that torch sees; ``triton``: the settings name the Triton kernels, which need sm_80."""
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
                    "a GPU that no other process holds",
                    "end the other processes (nvidia-smi), or choose another with CUDA_VISIBLE_DEVICES",
                )
            )
    if findings:
        return together(findings)
    return ok(", ".join(f"{gpu.name} ({size(gpu.free)} free)" for gpu in found))


def mutual_attention(subject: Subject) -> Finding:
    """Whether the Triton kernels compile here, and agree with the reference forward and backward.

    With TRITON_INTERPRET they are interpreted, in fp32. Not yet tried on GPUs.
    """
    import torch

    from maris_fast.kernels.choice.table import summary
    from maris_fast.kernels.mutual_attention.candidates import OPERATION, REFERENCE
    from maris_fast.kernels.mutual_attention.operator import why_unsupported
    from maris_fast.kernels.mutual_attention.parity import Case, parity

    wanted = subject.model.mutual_attention_impl == "triton"
    device = torch.device("cuda" if torch.cuda.is_available() and not subject.refuses_gpu else "cpu")
    auto = f"impl auto takes {summary(OPERATION, device, REFERENCE)}"
    reason = why_unsupported(device, torch.float32, WORDS, subject.model.channels)
    if reason and wanted:
        came = f"model.mutual_attention_impl = triton: {reason}"
        return broken(came, "one that can run here", "set model.mutual_attention_impl=auto")
    if reason:
        return not_run(f"{reason}; {auto}")
    wrong = []
    for dtype in (torch.float32, torch.bfloat16):
        if why_unsupported(device, dtype, WORDS, CHANNELS) is None:
            case = Case(L_v=70, L_t=WORDS, C=CHANNELS, dtype=dtype, counts=(2, 0, 1), padded=True)
            wrong += [f"{dtype}: {one}" for one in parity(case, device).failures()]
    return judge_parity(wrong, f"Triton's kernels run on {device.type} and agree; {auto}", wanted)


def judge_parity(wrong: list[str], all_well: str, used: bool) -> Finding:
    """``used``: the settings name the kernels; else only kernels that passed a proof here are called."""
    if not wrong:
        return ok(all_well)
    judge = broken if used else warning
    return judge(
        f"Triton's kernels disagree with the reference: {'; '.join(wrong)}",
        "errors within their bounds",
        "leave model.mutual_attention_impl at auto or reference, and report it with `maris-fast info`",
    )
