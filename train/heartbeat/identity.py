"""Which process a rank is, so that nobody else is ever taken for it."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Identity:
    """A rank's process. ``machine`` tells apart what may share a host name: containers, and reboots."""

    rank: int
    host: str
    pid: int
    machine: str
    started: str
    """The kernel's start time of ``pid``."""

    @classmethod
    def own(cls, rank: int) -> Identity:
        pid = os.getpid()
        return cls(rank, socket.gethostname(), pid, _machine(), _started(pid))

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} (pid {self.pid})"

    def kill(self) -> None:
        """Ends the process if it is on this machine and still the one that it was."""
        if self.machine == _machine() and self.started and self.started == _started(self.pid):
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return " ".join([boot, *(os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "net"))])
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str:
    try:
        # The command's name stands in parentheses and may hold anything.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""
