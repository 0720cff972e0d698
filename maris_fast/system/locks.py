"""Exclusive ownership of an output folder or file, by a lock file that names host, process and time.

A lock is a file that is created only if none exists (``O_CREAT | O_EXCL``), which every file system does
atomically, network file systems included, with or without flock. It is removed at the end of its block, also
after an error or a signal that Python handles. A stale lock is taken over when its owner is gone:

* If the owner was started on this boot of this machine, in this PID namespace, the process table decides.
  PID and start time must both match, since PIDs are reused.
* Otherwise (another machine or container) heartbeats decide: an owner sets its lock's modification time every
  ``BEAT`` seconds. A waiting process considers a lock stale if it is unchanged for ``LEASE`` seconds, or for
  ``BEAT`` seconds if it names no owner. Clocks of different machines are never compared.

Only one of many waiting processes takes over a stale lock: it is removed under a lock of its own, if still
unchanged. An owner that was silent for longer than ``LEASE`` and resumes detects this by ``Held.confirm``.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from maris_fast.errors import InputError
from maris_fast.system import process_table

SUFFIX = ".owner.json"

BEAT = 5.0
"""Seconds between an owner's heartbeats."""
LEASE = 60.0
"""Seconds without a heartbeat after which an owner that cannot be looked up counts as gone."""
LOOK = 0.05
"""Seconds between polls of another owner's lock."""

log = logging.getLogger(__name__)


class OccupiedError(InputError):
    """Another process or thread owns it; ``lock`` is the file that names the owner."""

    def __init__(self, what: Path, lock: Path, owner: Owner | None) -> None:
        self.what, self.lock = what, lock
        self.who = str(owner or "a process that left no name")
        super().__init__(f"{what} is in use by {self.who}")

    @property
    def by_hand(self) -> str:
        """Advice for a user who knows that the owner is gone."""
        return f"if that process is certainly gone, remove {self.lock}"


@dataclass(frozen=True)
class Owner:
    """The identity of a process, so that no other is mistaken for it.

    Attributes:
        boot: boot ID of the machine; empty if it has none.
        pid_namespace: its inode; each container numbers its own processes.
        started: start of the process, in clock ticks after boot.
        since: when the lock was requested, UTC.
        token: unique to this lock.
    """

    host: str
    boot: str
    pid_namespace: int
    pid: int
    started: int
    since: str
    token: str

    @classmethod
    def here(cls) -> Owner:
        return cls(
            host=socket.gethostname(),
            boot=process_table.boot(),
            pid_namespace=_pid_namespace(),
            pid=os.getpid(),
            started=process_table.started(os.getpid()) or 0,
            since=datetime.now(UTC).isoformat(timespec="seconds"),
            token=secrets.token_hex(8),
        )

    @classmethod
    def of(cls, text: str) -> Owner | None:
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def lives(self) -> bool | None:
        """Whether the process lives; None if it cannot be looked up from here."""
        if not self.boot or (self.boot, self.pid_namespace) != (process_table.boot(), _pid_namespace()):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # another user's process, whose start may be hidden as well
        started = process_table.started(self.pid)
        return started is None or started == self.started

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host} (since {self.since})"


class Held:
    """A lock that this process holds."""

    def __init__(self, what: Path, lock: Path, owner: Owner) -> None:
        self.what, self.lock, self.owner = what, lock, owner
        self._changing = threading.Lock()
        self._file = os.open(lock, os.O_RDONLY)

    def beat(self) -> None:
        """Send a heartbeat."""
        with self._changing, suppress(OSError):  # a disk that is temporarily unavailable
            if self._file >= 0:
                # By descriptor, so that another owner's lock of the same name is not touched.
                os.utime(self._file)

    def confirm(self) -> None:
        """Check that no other process took over the lock while this one was stalled.

        Raises:
            OccupiedError: another process did.
        """
        while (now := _read(self.lock)) is None:  # removed by hand, and not taken over
            if _created(self.lock, self.owner):
                self.close()
                self._file = os.open(self.lock, os.O_RDONLY)
        if now.text != _text(self.owner):
            raise OccupiedError(self.what, self.lock, Owner.of(now.text))

    def close(self) -> None:
        with self._changing:
            if self._file >= 0:
                os.close(self._file)
            self._file = -1


@dataclass(frozen=True)
class _State:
    text: str
    touched: int


_held: dict[Path, Held] = {}
_beating: threading.Thread | None = None
_change = threading.Lock()


def lock_in(folder: Path) -> Path:
    """The path of the lock of a whole folder."""
    return folder / SUFFIX


def lock_beside(file: Path) -> Path:
    """The path of the lock of a file to be written."""
    return file.with_name(f".{file.name}{SUFFIX}")


def is_lock(path: Path) -> bool:
    return path.name.endswith(SUFFIX)


@contextmanager
def owned_folder(
    folder: Path, *, wait: bool = False, pause: Callable[[], None] | None = None
) -> Iterator[Held]:
    """Reserve an existing folder for this thread alone until the block ends.

    Args:
        wait: whether to wait for a living owner.
        pause: called between polls of another owner's lock; by default a sleep of ``LOOK`` seconds.

    Raises:
        OccupiedError: another owner has it, and ``wait`` is false.
        OSError: the lock file cannot be read or written.
    """
    with _owned(folder, lock_in(folder), wait, pause or _sleep) as held:
        yield held


@contextmanager
def owned_file(file: Path, *, wait: bool = False, pause: Callable[[], None] | None = None) -> Iterator[Held]:
    """The same for a file, which need not exist."""
    with _owned(file, lock_beside(file), wait, pause or _sleep) as held:
        yield held


def living_owner(lock: Path) -> Owner | None:
    """The owner that a lock names, if it is known to be alive."""
    now = _read(lock)
    owner = Owner.of(now.text) if now else None
    return owner if owner is not None and owner.lives() else None


def unknown_owner(lock: Path) -> bool:
    """Whether there is a lock whose owner cannot be looked up from here, so that heartbeats decide."""
    now = _read(lock)
    owner = Owner.of(now.text) if now else None
    return now is not None and (owner is None or owner.lives() is None)


def confirm(folder: Path) -> None:
    """Call ``Held.confirm`` for a folder if this process owns it, else do nothing.

    Raises:
        OccupiedError: this process owned it, and another one has taken it over.
    """
    if held := _held.get(lock_in(folder)):
        held.confirm()


def release_all() -> None:
    """Release all locks of a process that ends without leaving its blocks."""
    for held in list(_held.values()):
        with suppress(OSError):
            _release(held.lock, held.owner)


@contextmanager
def _owned(what: Path, lock: Path, wait: bool, pause: Callable[[], None]) -> Iterator[Held]:
    owner = Owner.here()
    try:
        _acquire(what, lock, owner, wait, pause)
        held = _held[lock] = Held(what, lock, owner)
        _start_beating()
        yield held
    finally:
        if (mine := _held.get(lock)) is not None and mine.owner is owner:
            del _held[lock]
            mine.close()
        _release(lock, owner)


def _acquire(what: Path, lock: Path, own: Owner, wait: bool, pause: Callable[[], None]) -> None:
    seen: _State | None = None
    since, told = 0.0, False
    while not _created(lock, own):
        now = _read(lock)
        if now is None:
            continue
        owner = Owner.of(now.text)
        lives = owner.lives() if owner else None
        if now != seen:
            beats = seen is not None and seen.text == now.text
            if (lives or (lives is None and beats)) and not wait:
                raise OccupiedError(what, lock, owner)
            seen, since = now, time.monotonic()
        unchanged = time.monotonic() - since
        # An owner writes its name at once; a lock without one was left by a process that was killed first.
        patience = LEASE if now.text else BEAT
        if lives is False or (lives is None and unchanged > patience):
            _remove_left(what, lock, now, pause)
            seen = None
            continue
        if lives is None and unchanged > 1 and not told:
            told = True
            log.warning(
                "%s is in use by %s, which cannot be looked up from here: waiting up to %.0f s for a sign of "
                "life",
                *(what, owner or "somebody", patience),
            )
        pause()


def _sleep() -> None:
    time.sleep(LOOK)


def _release(lock: Path, owner: Owner) -> None:
    if owner.pid != os.getpid():
        return  # a fork of the owner
    now = _read(lock)
    if now is not None and now.text == _text(owner):
        with suppress(FileNotFoundError):
            os.unlink(lock)


def _created(lock: Path, owner: Owner) -> bool:
    try:
        file = os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    except FileExistsError:
        return False
    try:
        try:
            os.write(file, _text(owner).encode())
        finally:
            os.close(file)  # on a network file system other clients see the text from now on
    except BaseException:
        os.unlink(lock)
        raise
    # A process that stalled before it wrote its name may have lost the lock to another.
    return (now := _read(lock)) is not None and now.text == _text(owner)


def _remove_left(what: Path, lock: Path, state: _State, pause: Callable[[], None]) -> None:
    """Remove a stale lock; of all processes that saw it in this state, only one does."""
    with owned_file(lock, wait=True, pause=pause):
        if _read(lock) == state:
            os.unlink(lock)
            log.warning("%s was left by %s, which is gone: taken over", what, Owner.of(state.text))


def _read(lock: Path) -> _State | None:
    try:
        with lock.open() as file:  # reopening makes a network file system ask its server
            return _State(file.read(), os.fstat(file.fileno()).st_mtime_ns)
    except FileNotFoundError:
        return None


def _text(owner: Owner) -> str:
    return json.dumps(asdict(owner), indent=1) + "\n"


def _start_beating() -> None:
    global _beating
    with _change:
        if _beating is None or not _beating.is_alive():
            _beating = threading.Thread(target=_beat, name="owner", daemon=True)
            _beating.start()


def _beat() -> None:
    while True:
        time.sleep(BEAT)
        for held in list(_held.values()):
            held.beat()


def _forget() -> None:
    """Reset a forked child, which owns no locks and has no heartbeat thread."""
    global _beating, _change
    _held.clear()
    _beating, _change = None, threading.Lock()


os.register_at_fork(after_in_child=_forget)


def _pid_namespace() -> int:
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
