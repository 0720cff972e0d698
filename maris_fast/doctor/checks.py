"""All checks, in the order in which they run: what everything else needs comes first."""

from __future__ import annotations

from maris_fast.doctor import machine, packages, run
from maris_fast.doctor.examining import Check
from maris_fast.doctor.subject import Subject


def _with_settings(subject: Subject) -> bool:
    return bool(subject.training or subject.caching or subject.problem)


def _with_cache(subject: Subject) -> bool:
    return subject.cache is not None


def _to_train(subject: Subject) -> bool:
    return subject.training is not None


MEETING = Check("ranks", run.ranks_meet, seconds=90)

CHECKS: tuple[Check, ...] = (
    Check("packages", packages.packages),
    # Long, for cold files on a network's disk.
    Check("imports", packages.imports, seconds=120, opens=("torch", "maris_fast.data_shards.cache")),
    Check("kernel folders", machine.kernel_folders),
    Check("memory", machine.memory),
    Check("limits", machine.limits),
    Check("gpu", machine.gpus),
    Check("mutual attention", packages.mutual_attention, seconds=120),
    MEETING,
    Check("settings", run.settings, concerns=_with_settings),
    Check("cache", run.cache, concerns=_with_cache),
    Check("run folder", run.run_folder, concerns=_to_train),
    Check("first step", run.first_step, seconds=120, concerns=_to_train, after=("settings", "cache")),
)
