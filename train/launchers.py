"""What started this process: a launcher that may go away, or srun, which names ranks in its own way."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path

SCRIPTS = ("deepspeed", "torchrun", "maris-fast")
MODULES = ("deepspeed.launcher", "torch.distributed", "maris_fast.cli")


class Launchers:
    """The launchers above this process, nearest first; a shell or a scheduler is none.

    DeepSpeed's outer one dies without a word to the inner one, and a launcher that is killed tells nobody.
    Ranks look for themselves, and stop with a checkpoint.
    """

    def __init__(self) -> None:
        self._chain = [os.getpid()]
        while (parent := _parent(self._chain[-1])) and _is_launcher(parent):
            self._chain.append(parent)

    def gone(self) -> bool:
        """Whether one of them has ended: its child has another parent then."""
        pairs = zip(self._chain, self._chain[1:], strict=False)
        return any(_parent(child) != parent for child, parent in pairs)


def own_rank() -> int:
    """This process's number among all, 0 of a process alone."""
    return int(os.environ.get("RANK", "0"))


def take_srun_environment() -> None:
    """Names this process's rank as ``torchrun`` would, where srun has started it.

    Only a process of a job step counts: a batch script has SLURM_PROCID too, and the number of tasks of a
    step that it has not started.
    """
    given = os.environ
    if "RANK" in given or "SLURM_STEP_NUM_TASKS" not in given:
        return
    node = int(given["SLURM_NODEID"])
    given["RANK"], given["WORLD_SIZE"] = given["SLURM_PROCID"], given["SLURM_STEP_NUM_TASKS"]
    given["LOCAL_RANK"] = given["SLURM_LOCALID"]
    given["LOCAL_WORLD_SIZE"] = str(tasks_per_node(given["SLURM_STEP_TASKS_PER_NODE"])[node])
    given.setdefault("MASTER_ADDR", first_host(given["SLURM_STEP_NODELIST"]))
    # The same on all ranks, and another for a job beside it.
    given.setdefault("MASTER_PORT", str(20000 + int(given["SLURM_JOB_ID"]) % 10000))


def first_host(nodes: str) -> str:
    """``gpu-[003-005,9],login`` is ``gpu-003`` first."""
    first = re.match(r"([^\[,]*)(?:\[([^\],-]+)[^\]]*\])?([^,]*)", nodes)
    assert first is not None
    return "".join(part or "" for part in first.groups())


def tasks_per_node(counts: str) -> list[int]:
    """``2(x3),1`` is 2, 2, 2, 1."""
    tasks: list[int] = []
    for one in counts.split(","):
        count, _, times = one.partition("(x")
        tasks += [int(count)] * int(times.rstrip(")") or 1)
    return tasks


def _parent(pid: int) -> int | None:
    if pid == os.getpid():
        return os.getppid()
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError, IndexError):
        return None


def _is_launcher(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return False
    words = iter(command[1:])
    for word in words:
        if word == "-m":
            return next(words, "").startswith(MODULES)
        if not word.startswith("-"):
            return Path(word).name in SCRIPTS
    return False


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
