"""Real faults: a full disk, a user without a name; tests are skipped where this machine forbids them."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMELESS = ("unshare", "--map-user=12345", "--map-group=12345", "env", "-u", "USER", "-u", "LOGNAME")
"""Prefix of a command that runs it as a user id without a user name."""


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """``folder`` as a separate tmpfs of ``size``, in the notation of mount (``1m``)."""
    folder.mkdir(exist_ok=True)
    _or_skip("mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class Disk:
    """Fills a small disk, as another program would."""

    def __init__(self, folder: Path) -> None:
        self._filler = folder / "filler"

    def fill(self, but_for: int = 0) -> None:
        with self._filler.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(4096))
            except OSError:
                file.truncate(file.tell() - but_for)

    def free(self) -> None:
        self._filler.unlink()


def require_nameless_user() -> None:
    _or_skip(*NAMELESS, "true")


def _or_skip(*command: str) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this machine does not allow {command[0]}: {getattr(error, 'stderr', error)}")
