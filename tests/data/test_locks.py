"""Folder locks: acquired once, released, taken over only when the owner is gone. Uses real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from maris_fast.errors import InputError
from maris_fast.system import locks
from maris_fast.system.locks import OccupiedError, Owner, lock_in, owned_folder
from maris_fast.system.new_folder import new_folder
from tests.training.processes import ROOT

OWN = """
import sys, time
from pathlib import Path
from maris_fast.system import locks
from maris_fast.system.new_folder import new_folder
from maris_fast.errors import InputError
locks.BEAT = 0.3
with locks.owned_folder(Path(sys.argv[1])) as held:
    print("owned", flush=True)
    sys.stdin.readline()
    held.confirm()
    print("still owned", flush=True)
"""


@contextmanager
def owner_elsewhere(folder: Path, *within: str) -> Iterator[subprocess.Popen[str]]:
    """A process that owns ``folder`` until it is sent a line, and then confirms its ownership."""
    command = [*within, sys.executable, "-c", OWN, str(folder)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "owned\n"
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def in_children(count: int, work: Callable[[int], bool]) -> list[bool]:
    """What ``work`` returned in each of ``count`` forks that start at the same moment."""
    start, go = os.pipe()
    children = []
    for number in range(count):
        if (child := os.fork()) == 0:
            status = 2
            with suppress(BaseException):
                os.close(go)
                os.read(start, 1)
                status = 0 if work(number) else 1
            os._exit(status)
        children.append(child)
    os.close(start)
    time.sleep(0.1)
    os.close(go)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert set(statuses) <= {0, 1}
    return [status == 0 for status in statuses]


def left_by_a_killed_process(folder: Path) -> None:
    def own_and_die(_: int) -> bool:
        with owned_folder(folder):
            os.kill(os.getpid(), signal.SIGKILL)
        return True

    with pytest.raises(AssertionError):  # it was killed before it could report
        in_children(1, own_and_die)
    assert lock_in(folder).exists()


@pytest.mark.slow
def test_one_of_many_waiting_processes_takes_over_a_stale_lock(tmp_path: Path) -> None:
    owned, tried = tmp_path / "owned", tmp_path / "tried"
    owned.mkdir()
    tried.mkdir()

    def take(number: int) -> bool:
        try:
            with owned_folder(owned):
                (tried / str(number)).touch()
                while len(list(tried.iterdir())) < 12:
                    time.sleep(0.01)
                return True
        except locks.OccupiedError:
            (tried / str(number)).touch()
            return False

    for _ in range(5):
        left_by_a_killed_process(owned)
        assert sum(in_children(12, take)) == 1
        assert not list(owned.iterdir())
        for file in tried.iterdir():
            file.unlink()


def test_waiting_processes_get_it_one_at_a_time(tmp_path: Path) -> None:
    counter = tmp_path / "counter"
    counter.write_text("0")

    def count(number: int) -> bool:
        for turn in range(10):
            if number == 0 and turn == 5:
                # One is killed while it holds the lock; the others continue.
                with owned_folder(tmp_path, wait=True, pause=lambda: time.sleep(0.001)):
                    os.kill(os.getpid(), signal.SIGKILL)
            with owned_folder(tmp_path, wait=True, pause=lambda: time.sleep(0.001)):
                before = int(counter.read_text())
                counter.write_text(str(before + 1))
        return True

    with pytest.raises(AssertionError):
        in_children(6, count)
    assert counter.read_text() == "55"


@pytest.mark.process
def test_the_owner_is_named_and_how_to_take_it_by_hand(tmp_path: Path) -> None:
    with owner_elsewhere(tmp_path) as other:
        with pytest.raises(locks.OccupiedError) as raised, owned_folder(tmp_path):
            pytest.fail("two owners")
        since = json.loads(lock_in(tmp_path).read_text())["since"]
        assert f"{tmp_path} is in use by process {other.pid} on {os.uname().nodename} (since {since})" in str(
            raised.value
        )
        assert raised.value.by_hand.endswith(f"remove {tmp_path}/.owner.json")
        lock_in(tmp_path).unlink()
        with owned_folder(tmp_path):
            out, error = other.communicate("\n")
    assert "still owned" not in out
    assert f"is in use by process {os.getpid()}" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.process
def test_a_number_that_another_process_has_now_is_not_taken_for_the_owner(tmp_path: Path) -> None:
    with owner_elsewhere(tmp_path) as other:
        before = json.loads(lock_in(tmp_path).read_text())
        assert before["pid"] == other.pid
        # As if the owner had ended and this living process had been given its PID.
        lock_in(tmp_path).write_text(json.dumps({**before, "started": before["started"] - 1}))
        with owned_folder(tmp_path):
            assert json.loads(lock_in(tmp_path).read_text())["pid"] == os.getpid()


def test_a_zombie_process_counts_as_gone(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            locks._created(lock_in(tmp_path), Owner.here())
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert Path(f"/proc/{child}/stat").exists()
    assert json.loads(lock_in(tmp_path).read_text())["pid"] == child
    with owned_folder(tmp_path):
        pass
    os.waitpid(child, 0)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_it_is_given_back_however_its_block_ends(tmp_path: Path, error: type[BaseException]) -> None:
    def own() -> None:
        with owned_folder(tmp_path):
            in_children(1, lambda _: locks.release_all() is None)  # a fork owns nothing
            assert lock_in(tmp_path).exists()
            raise error

    with pytest.raises(error):
        own()
    assert not list(tmp_path.iterdir())


@pytest.mark.process
def test_an_owner_in_another_container_is_believed_while_it_gives_signs_of_life(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its PID means nothing in this container's process table; the same holds for other machines."""
    container = ("unshare", "--pid", "--fork", "--mount-proc")
    if not shutil.which("unshare") or subprocess.run([*container, "true"], check=False).returncode:
        pytest.skip("this user cannot make a PID namespace")
    monkeypatch.setattr(locks, "LEASE", 3.0)
    with owner_elsewhere(tmp_path, *container) as other:
        inside = json.loads(lock_in(tmp_path).read_text())["pid"]
        assert inside == 1
        with pytest.raises(locks.OccupiedError, match="process 1 on "), owned_folder(tmp_path):
            pytest.fail("two owners")
        # It is stopped for longer than its lease and another process takes over: it must not resume as owner.
        os.killpg(other.pid, signal.SIGSTOP)
        began = time.monotonic()
        with owned_folder(tmp_path):
            assert time.monotonic() - began > 3
            assert "was left by process 1 on" in caplog.text
            assert "waiting up to 3 s for a sign of life" in caplog.text
            os.killpg(other.pid, signal.SIGCONT)
            out, error = other.communicate("\n")
            assert "still owned" not in out
            assert f"is in use by process {os.getpid()}" in error
        assert not list(tmp_path.iterdir())


def test_an_owner_that_cannot_be_looked_up_is_believed_while_it_beats(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(locks, "LEASE", 2.0)  # ten beats: one may be late on a busy machine
    lock, ended = lock_in(tmp_path), threading.Event()
    lock.write_text(json.dumps(asdict(replace(Owner.here(), boot="another", pid=1))))

    def beat() -> None:
        for _ in range(25):
            if ended.wait(0.2):
                return
            os.utime(lock)

    other = threading.Thread(target=beat)
    other.start()
    try:
        with pytest.raises(OccupiedError, match="is in use by process 1 on "), owned_folder(tmp_path):
            pytest.fail("two owners")
    finally:
        ended.set()
        other.join()
    with owned_folder(tmp_path) as held:  # it has fallen silent
        assert json.loads(lock.read_text())["token"] == held.owner.token


def test_an_owner_whose_lock_was_removed_makes_it_again_and_keeps_it_alive(tmp_path: Path) -> None:
    lock = lock_in(tmp_path)
    with owned_folder(tmp_path) as held:
        lock.unlink()
        held.confirm()
        assert json.loads(lock.read_text())["token"] == held.owner.token
        os.utime(lock, (1, 1))
        held.beat()
        assert lock.stat().st_mtime > 1
    assert not list(tmp_path.iterdir())


def test_a_lock_without_a_name_is_taken_over_after_a_beat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner was killed between creating the file and writing its content."""
    monkeypatch.setattr(locks, "BEAT", 0.5)
    lock_in(tmp_path).touch()
    began = time.monotonic()
    with owned_folder(tmp_path):
        assert time.monotonic() - began > 0.5


def test_a_process_suspended_before_writing_its_name_does_not_mistake_anothers_lock_for_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, write = lock_in(tmp_path), os.write
    other = json.dumps(asdict(Owner.here()))

    def late(file: int, content: bytes) -> int:
        lock.unlink()
        lock.write_text(other)
        return write(file, content)

    monkeypatch.setattr(os, "write", late)
    with pytest.raises(OccupiedError), owned_folder(tmp_path):
        raise AssertionError
    assert lock.read_text() == other


def test_of_two_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    """Commands that write a whole folder, such as import, need no lock: only one can rename it into place."""
    target = tmp_path / "dataset"

    def second() -> None:
        with new_folder(target) as later:
            (later / "mine").touch()
            with new_folder(target) as sooner:
                (sooner / "yours").touch()

    with pytest.raises(InputError, match=r"dataset is not empty"):
        second()
    assert [path.name for path in target.iterdir()] == ["yours"]
    assert list(tmp_path.iterdir()) == [target]
