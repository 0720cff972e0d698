"""The state of a GPU before and after a measurement, as nvidia-smi tells it."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch

# What is asked about a GPU, and what a row calls it.
STATE = {
    "power.limit": "power_limit_w",
    "clocks.sm": "sm_mhz",
    "temperature.gpu": "celsius",
    "memory.used": "used_mib",
}
# What a row calls the processes that compute on the GPU beside this one, and their memory.
OTHERS, OTHERS_MIB = "other_gpu_processes", "other_gpu_mib"
# A slow answer costs a measurement no more than this, and only once.
SECONDS = 5.0

log = logging.getLogger(__name__)


@contextmanager
def gpu_conditions(device: torch.device) -> Iterator[dict[str, Any]]:
    """The conditions of what the block measures, complete when it ends; empty unless ``device`` is a GPU.

    Each is a pair, before and after: ``power_limit_w``, ``sm_mhz``, ``celsius``, ``used_mib`` (memory used by
    all processes), ``other_gpu_processes`` and ``other_gpu_mib``. None is what nvidia-smi doesn't tell: in a
    container that numbers its own processes, for example, the last two.
    """
    found: dict[str, Any] = {}
    if device.type != "cuda":
        yield found
        return
    smi = _smi(device)
    before = smi.conditions()
    yield found
    after = smi.conditions()
    found |= {name: [before[name], after[name]] for name in before}


class NvidiaSmi:
    """nvidia-smi, asked about the GPU of a UUID. If it is missing, fails or hangs, it isn't asked again."""

    def __init__(self, gpu: str) -> None:
        self.gpu = gpu
        self.program = shutil.which("nvidia-smi")

    def conditions(self) -> dict[str, float | None]:
        """The state of the GPU, and the use that other processes make of it."""
        state = next(iter(self._lines("gpu", STATE)), [""] * len(STATE))
        found = dict(zip(STATE.values(), map(_number, state), strict=True))
        processes = dict(self._lines("compute-apps", ("pid", "used_memory")))
        # Where this process isn't listed, others aren't either.
        listed = processes.pop(str(os.getpid()), None) is not None
        found[OTHERS] = len(processes) if listed else None
        found[OTHERS_MIB] = sum(_number(used) or 0 for used in processes.values()) if listed else None
        return found

    def _lines(self, query: str, fields: Collection[str]) -> list[list[str]]:
        if self.program is None:
            return []
        command = [self.program, f"--query-{query}={','.join(fields)}", "--format=csv,noheader,nounits"]
        command += [f"--id={self.gpu}"]
        try:
            said = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout
        except (OSError, subprocess.SubprocessError) as error:
            log.warning("clock, temperature and processes of the GPU are not recorded: %s", error)
            self.program = None
            return []
        lines = [[cell.strip() for cell in line.split(",")] for line in said.splitlines()]
        return [line for line in lines if len(line) == len(fields)]


@lru_cache
def _smi(device: torch.device) -> NvidiaSmi:
    return NvidiaSmi(f"GPU-{torch.cuda.get_device_properties(device).uuid}")


def _number(text: str) -> float | None:
    """None for what nvidia-smi writes in place of a number it doesn't know, such as [N/A]."""
    try:
        return float(text)
    except ValueError:
        return None
