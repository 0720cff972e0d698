"""All checks, in the order in which they run: what everything else needs comes first."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from maris_fast.doctor import (
    compilers,
    encoders,
    folders,
    gpu,
    kernels,
    machine,
    meeting,
    packages,
    run,
    step,
)
from maris_fast.doctor.finding import Finding
from maris_fast.doctor.subject import Subject


def _always(_: Subject) -> bool:
    return True


def _with_settings(subject: Subject) -> bool:
    return bool(subject.training or subject.caching or subject.problem)


def _with_cache(subject: Subject) -> bool:
    return subject.cache is not None


def _to_train(subject: Subject) -> bool:
    return subject.training is not None


def _to_cache(subject: Subject) -> bool:
    return subject.caching is not None


@dataclass(frozen=True)
class Check:
    """One check.

    ``seconds``: after which it counts as broken. ``concerns``: whether it means anything for a subject.
    ``after``: checks that must not be broken for it to run. ``opens``: modules that are imported for all
    later checks once this one is ok; none may look for a GPU, since CUDA does not survive a fork.
    """

    name: str
    run: Callable[[Subject], Finding]
    seconds: float = 15
    concerns: Callable[[Subject], bool] = _always
    after: tuple[str, ...] = ()
    opens: tuple[str, ...] = ()


MEETING = Check("ranks", meeting.ranks_meet, seconds=90)

CHECKS: tuple[Check, ...] = (
    Check("python", packages.python),
    Check("packages", packages.packages),
    # Long, for cold files on a network's disk.
    Check("imports", packages.imports, seconds=120, opens=("torch", "maris_fast.data_shards.cache")),
    Check("compilers", compilers.compilers, seconds=60),
    Check("kernel folders", folders.kernel_folders),
    Check("memory", machine.memory),
    Check("cores", machine.cores),
    Check("limits", machine.limits, seconds=60),
    Check("host name", machine.host_name, seconds=30),
    Check("gpu", gpu.gpus, seconds=60),
    Check("mutual attention", kernels.mutual_attention, seconds=120),
    Check("attention", kernels.attention, seconds=60),
    MEETING,
    Check("settings", run.settings, concerns=_with_settings),
    Check("cache", run.cache, seconds=60, concerns=_with_cache),
    Check("encoder weights", encoders.encoder_weights, seconds=60, concerns=_to_cache),
    Check("run folder", run.run_folder, seconds=60, concerns=_to_train),
    Check("first step", step.first_step, seconds=120, concerns=_to_train, after=("settings", "cache")),
)
