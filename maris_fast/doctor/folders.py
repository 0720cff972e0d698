"""Where things are written: disks, their room, and file systems that lie across a network."""

from __future__ import annotations

import getpass
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from maris_fast.doctor.finding import Finding, broken, ok, size, together, warning
from maris_fast.doctor.subject import Subject

GIB = 2**30
NETWORK = (
    "nfs",
    "cifs",
    "smb",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "afs",
    "pvfs2",
    "wekafs",
    "panfs",
    "fuse.sshfs",
    "fuse.glusterfs",
    "fuse.gcsfuse",
    "fuse.s3fs",
    "fuse.juicefs",
)
KERNELS_BYTES = GIB
"""Room that is asked for where kernels are built; a run's take megabytes."""


@dataclass(frozen=True)
class Place:
    """What the nearest existing folder above a path is: ``why_not`` says why nothing can be written there."""

    path: Path
    kind: str
    free: int
    why_not: str | None


def kernel_folders(_: Subject) -> Finding:
    """Where Triton and torch.compile keep what they built: writable, on a disk of this machine, with room."""
    return together(
        judge_kernel_folder(name, look_at(path)) for name, path in _kernel_folders(os.environ).items()
    )


def judge_kernel_folder(variable: str, place: Place) -> Finding:
    todo = f"export {variable}=/tmp/{variable.lower()}, or another folder on a disk of this machine"
    if place.why_not:
        return broken(f"{variable}: {place.path} {place.why_not}", "a folder that can be written", todo)
    if place.free < KERNELS_BYTES:
        return warning(f"{variable}: {size(place.free)} free on {place.path}", "1 GiB", todo)
    if on_network(place.kind):
        return warning(
            f"{variable}: {place.path} is on {place.kind}",
            "a disk of this machine: ranks that build at once wait for one another's locks, or lose files",
            todo,
        )
    return ok(f"{place.path} ({place.kind}, {size(place.free)} free)")


def _kernel_folders(environment: Mapping[str, str]) -> dict[str, Path]:
    home, temporary = Path.home(), Path(tempfile.gettempdir())
    usual = {
        "TRITON_CACHE_DIR": home / ".triton" / "cache",
        "TORCHINDUCTOR_CACHE_DIR": temporary / f"torchinductor_{getpass.getuser()}",
    }
    return {name: Path(environment.get(name) or path) for name, path in usual.items()}


def look_at(path: Path, mounts: str | None = None) -> Place:
    """Writes a file into the nearest existing folder at or above ``path``, and removes it."""
    mounts = Path("/proc/mounts").read_text() if mounts is None else mounts
    path = path.expanduser().absolute()
    here = next(one for one in (path, *path.parents) if one.exists())
    why_not = None
    if not here.is_dir():
        why_not = "is a file, not a folder"
    else:
        try:
            with tempfile.TemporaryFile(dir=here) as file:
                file.write(b"doctor")
        except OSError as error:
            why_not = f"cannot be written: {error.strerror}"
    return Place(here, file_system(here.resolve(), mounts), shutil.disk_usage(here).free, why_not)


def file_system(path: Path, mounts: str) -> str:
    """The type of the file system that ``path`` lies on, by the text of ``/proc/mounts``."""
    found, depth = "unknown", -1
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split()
        mount = Path(point.encode().decode("unicode_escape"))  # a blank is \040
        # Of two mounts on one place, the later hides the earlier.
        if (mount == path or mount in path.parents) and len(mount.parts) >= depth:
            found, depth = kind, len(mount.parts)
    return found


def on_network(kind: str) -> bool:
    return kind.startswith(NETWORK)
