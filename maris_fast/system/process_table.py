"""What /proc says of a process; None where it says nothing (to us)."""

from __future__ import annotations

from pathlib import Path

ENDED = -1


def boot() -> str:
    """This start of this machine; empty where it has no name."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def parent(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[1]) if fields else None


def started(pid: int) -> int | None:
    """Clock ticks after the boot; ``ENDED`` of a process that nobody has waited for yet."""
    fields = _stat(pid)
    if not fields:
        return None
    return ENDED if fields[0] in "ZX" else int(fields[19])


def command(pid: int) -> list[str] | None:
    content = _read(pid, "cmdline")
    return content.decode(errors="replace").split("\0") if content else None


def environment(pid: int) -> dict[str, str] | None:
    """As it was when the process began."""
    content = _read(pid, "environ")
    if content is None:
        return None
    pairs = (line.partition("=") for line in content.decode(errors="replace").split("\0"))
    return {name: value for name, _, value in pairs}


def descendants(pid: int) -> list[int]:
    """All that this process has started and what those have started, as far as they live."""
    parents = {int(folder.name): parent(int(folder.name)) for folder in Path("/proc").glob("[0-9]*")}
    found = [pid]
    for one in found:
        found += [child for child, above in parents.items() if above == one]
    return found[1:]


def _stat(pid: int) -> list[str]:
    """From the state on: the name before it may hold anything."""
    return (_read(pid, "stat") or b"").decode(errors="replace").rpartition(")")[2].split()


def _read(pid: int, name: str) -> bytes | None:
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return None
