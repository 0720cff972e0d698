"""The interpreter and the packages: their versions, whether they load, and whether Triton's kernels run."""

from __future__ import annotations

import importlib
import os
import platform
import tomllib
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from maris_fast.doctor.finding import Finding, broken, not_run, ok, together, warning
from maris_fast.doctor.subject import Subject

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
# Both together: Triton 3.6's interpreter can't loop under NumPy 2.4 and later (triton issue 9171).
INTERPRETER_BREAKS_ON = {
    "triton": SpecifierSet("<3.7", prereleases=True),
    "numpy": SpecifierSet(">=2.4", prereleases=True),
}
WORDS, CHANNELS = 7, 64


def packages(_: Subject) -> Finding:
    """Python and the installed versions against what this project needs."""
    python, needed = _requirements()
    # What comes first on the path is what is imported.
    installed: dict[str, str] = {}
    for one in metadata.distributions():
        installed.setdefault(canonicalize_name(one.name), one.version)
    return together(
        [
            judge_python(platform.python_version(), python),
            judge_packages(needed, installed, os.environ),
        ]
    )


def judge_python(version: str, needed: str) -> Finding:
    if SpecifierSet(needed).contains(version, prereleases=True):
        return ok(f"Python {version}")
    return broken(
        f"Python {version}", f"Python {needed}", "make another environment: make setup PYTHON=python3.12"
    )


def judge_packages(
    needed: Iterable[str], installed: Mapping[str, str], environment: Mapping[str, str]
) -> Finding:
    """``installed``: versions by canonical name."""
    wrong = []
    for each in map(Requirement, needed):
        version = installed.get(canonicalize_name(each.name))
        applies = each.marker is None or each.marker.evaluate({"extra": ""})
        if applies and not (version and each.specifier.contains(version, prereleases=True)):
            came, wanted = f"{each.name} {version or 'is not installed'}", f"{each.name}{each.specifier}"
            todo = "pip install -c constraints.txt -e . in the clone installs versions that belong together"
            wrong.append(broken(came, wanted, todo))
    found = {name: installed.get(name, "0") for name in INTERPRETER_BREAKS_ON}
    if all(versions.contains(found[name]) for name, versions in INTERPRETER_BREAKS_ON.items()):
        interpreted = environment.get("TRITON_INTERPRET", "0") not in ("", "0")
        wrong.append(
            (broken if interpreted else warning)(
                f"numpy {found['numpy']} beside triton {found['triton']}",
                "triton>=3.7 or numpy<2.4 to run kernels in Triton's interpreter",
                f"pip install 'numpy<2.4'{', or unset TRITON_INTERPRET' if interpreted else ''}",
            )
        )
    if wrong:
        return together(wrong)
    return ok(", ".join(f"{name} {installed[name]}" for name in SHOWN if name in installed))


def _requirements() -> tuple[str, tuple[str, ...]]:
    """Of the clone that this runs from, or else of the installed package: its Python and its packages."""
    project = Path(__file__).resolve().parents[2] / "pyproject.toml"
    if project.is_file():
        said = tomllib.loads(project.read_text())["project"]
        return said["requires-python"], tuple(said["dependencies"])
    about = metadata.metadata(PROJECT)
    needed = (each for each in metadata.requires(PROJECT) or () if "extra ==" not in each)
    return about["Requires-Python"], tuple(needed)


def imports(_: Subject) -> Finding:
    """Whether the packages with compiled parts load, together in one process."""
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


def mutual_attention(subject: Subject) -> Finding:
    """Triton's kernels compile here, and agree with the reference forward and backward.

    Where TRITON_INTERPRET is set they are interpreted, in fp32. On GPUs not yet tried.
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
    """``used``: the settings name the kernels; else calls get only what a proof here found right."""
    if not wrong:
        return ok(all_well)
    judge = broken if used else warning
    return judge(
        f"Triton's kernels disagree with the reference: {'; '.join(wrong)}",
        "errors within their bounds",
        "leave model.mutual_attention_impl at auto or reference, and report it with `maris-fast info`",
    )
