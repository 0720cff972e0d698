"""The launchers that started this process, and whether one of them has ended."""

from __future__ import annotations

import os
from pathlib import Path

from maris_fast.system import process_table

PROGRAMS = ("mpirun", "mpiexec", "orterun", "orted", "prterun", "prted", "hydra_pmi_proxy")
SCRIPTS = ("deepspeed", "torchrun", "maris-fast")
MODULES = ("deepspeed.launcher", "torch.distributed", "maris_fast.cli")


class Launchers:
    """The launchers among this process's ancestors, nearest first; shells and schedulers do not count.

    DeepSpeed's outer launcher dies without notifying the inner one, and a launcher that is killed notifies no
    process. So ranks check for themselves, and stop with a checkpoint.
    """

    def __init__(self) -> None:
        self._chain = [os.getpid()]
        while (parent := _parent_of(self._chain[-1])) and _is_launcher(parent):
            self._chain.append(parent)

    def gone(self) -> bool:
        """Whether one of them has ended, after which its child has another parent."""
        pairs = zip(self._chain, self._chain[1:], strict=False)
        return any(_parent_of(child) != parent for child, parent in pairs)


def _parent_of(pid: int) -> int | None:
    return os.getppid() if pid == os.getpid() else process_table.parent(pid)


def _is_launcher(pid: int) -> bool:
    program, *arguments = process_table.command(pid) or [""]
    if Path(program).name.partition(".")[0] in PROGRAMS:  # mpirun.openmpi, mpiexec.hydra
        return True
    words = iter(arguments)
    for word in words:
        if word == "-m":
            return next(words, "").startswith(MODULES)
        if not word.startswith("-"):
            return Path(word).name in SCRIPTS
    return False
