"""The software and hardware of a run, recorded with its numbers."""

from __future__ import annotations

import logging
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from subprocess import DEVNULL, PIPE
from typing import Any

import torch

from maris_fast.kernels.choice.table import machine, version_of
from maris_fast.train.ranks import Ranks

PACKAGES = (
    "maris-fast",
    "torch",
    "deepspeed",
    "triton",
    "xformers",
    "open_clip_torch",
    "safetensors",
    "numpy",
)
GIT_SECONDS = 5.0
"""Timeout, so that a repository on an unresponsive disk does not block a run."""

log = logging.getLogger(__name__)


def environment(ranks: Ranks) -> dict[str, Any]:
    """Versions, machine, device and commit, as plain values."""
    cuda = ranks.device.type == "cuda"
    return {
        "python": sys.version.split()[0],
        "packages": {name: version_of(name) for name in PACKAGES},
        "commit": _commit(),
        "platform": platform.platform(),
        "processor_cores": os.cpu_count(),
        "ranks": ranks.world,
        "threads_per_rank": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(ranks.device) if cuda else "cpu",
        "cuda": torch.version.cuda if cuda else None,
        "driver": machine(ranks.device)["driver"] if cuda else None,
    }


def _commit() -> str | None:
    """Commit of the code's own repository, with '-dirty' if it was changed; None outside of one."""
    command = [
        "git",
        "-C",
        str(Path(__file__).resolve().parent),
        "describe",
        "--always",
        "--exclude=*",
        "--dirty",
        "--abbrev=40",
    ]
    try:
        # A session of its own, so that child processes of git are killed with it.
        with subprocess.Popen(
            command, stdout=PIPE, stderr=DEVNULL, text=True, start_new_session=True
        ) as process:
            try:
                said, _ = process.communicate(timeout=GIT_SECONDS)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                raise
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("the commit is unknown: %s", error)
        return None
    return said.strip() or None
