"""Which process a rank is, so that no other process is ever mistaken for it."""

from __future__ import annotations

import os
import signal
import socket
from contextlib import suppress
from dataclasses import dataclass

from maris_fast.system import process_table


@dataclass(frozen=True)
class Identity:
    """A rank's process. ``machine`` distinguishes what may share a host name: containers, and reboots."""

    rank: int
    host: str
    pid: int
    machine: str
    started: int
    """The kernel's start time of ``pid``; 0: unknown."""

    @classmethod
    def own(cls, rank: int) -> Identity:
        pid = os.getpid()
        return cls(rank, socket.gethostname(), pid, _machine(), process_table.started(pid) or 0)

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host} (pid {self.pid})"

    def kill(self) -> None:
        """Kills the process if it is on this machine and still the same one."""
        if self.machine == _machine() and self.started and self.started == process_table.started(self.pid):
            with suppress(OSError):
                os.kill(self.pid, signal.SIGKILL)


def _machine() -> str:
    boot = process_table.boot()
    try:
        spaces = [os.readlink(f"/proc/self/ns/{kind}") for kind in ("pid", "net")]
    except OSError:
        spaces = []
    return " ".join([boot, *spaces]) if boot and spaces else socket.gethostname()
