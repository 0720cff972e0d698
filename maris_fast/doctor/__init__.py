"""Checks of whether this machine can do a run: small trials, each in a process of its own."""

from __future__ import annotations

from maris_fast.doctor import machine, run
from maris_fast.doctor.examining import Check, Result, examine
from maris_fast.doctor.finding import Finding
from maris_fast.doctor.subject import Subject

__all__ = ["CHECKS", "MEETING", "Check", "Finding", "Result", "Subject", "examine"]


def _to_train(subject: Subject) -> bool:
    return subject.training is not None


MEETING = Check("ranks", run.ranks_meet, seconds=90)

CHECKS: tuple[Check, ...] = (
    Check("packages", machine.packages),
    # A long limit, for uncached files on a network file system.
    Check("imports", machine.imports, seconds=120, opens=("torch", "maris_fast.data_shards.cache")),
    Check("kernel folders", machine.kernel_folders),
    Check("shared memory", machine.shared_memory),
    Check("gpu", machine.gpus),
    Check("mutual attention", machine.mutual_attention, seconds=120),
    MEETING,
    Check("settings", run.settings, concerns=lambda of: bool(of.training or of.caching or of.problem)),
    Check("cache", run.cache, concerns=lambda of: of.cache is not None),
    Check("run folder", run.run_folder, concerns=_to_train),
    Check("first step", run.first_step, seconds=120, concerns=_to_train, after=("settings", "cache")),
)
"""In the order in which they run: prerequisites come first."""
