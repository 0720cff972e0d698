"""Facts about processes from /proc; None if it has none, or hides them from this user."""

from __future__ import annotations

from pathlib import Path

ENDED = -1


def boot() -> str:
    """The boot ID of this machine; empty if it has none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def parent(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def started(pid: int) -> int | None:
    """Start time in clock ticks after boot; ``ENDED`` for a zombie, not yet waited for."""
    fields = _stat(pid)
    if not fields:
        return None
    return ENDED if fields[0] in "ZX" else int(fields[19])


def command(pid: int) -> list[str] | None:
    content = _read(pid, "cmdline")
    return content.decode(errors="replace").split("\0") if content else None


def environment(pid: int) -> dict[str, str] | None:
    """The environment variables with which the process started."""
    content = _read(pid, "environ")
    if content is None:
        return None
    pairs = (line.partition("=") for line in content.decode(errors="replace").split("\0"))
    return {name: value for name, _, value in pairs}


def descendants(pid: int) -> list[int]:
    """PIDs of the children of a process, their children and so on, as far as they still exist."""
    parents = {int(folder.name): parent(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")}
    found = [pid]
    for one in found:
        found += [child for child, above in parents.items() if above == one]
    return found[1:]


def _stat(pid: int) -> list[str]:
    """Fields of the stat file from the state on; the name before it may contain any character."""
    return (_read(pid, "stat") or b"").decode(errors="replace").rpartition(")")[2].split()


def _read(pid: int, name: str) -> bytes | None:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return None
