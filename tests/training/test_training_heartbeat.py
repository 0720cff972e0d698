"""Which rank is at fault: the diagnosis of made-up reports, and what reaches the coordinator from outside."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from maris_fast.config import EngineSettings
from maris_fast.errors import TrainingError
from maris_fast.system.launchers import free_port
from maris_fast.train.heartbeat import Heartbeat
from maris_fast.train.heartbeat import rank as rank_module
from maris_fast.train.heartbeat.coordinator import Coordinator
from maris_fast.train.heartbeat.diagnosis import (
    FAILED,
    GRACE,
    LOST,
    Beat,
    Diagnosis,
    Heard,
    Timeouts,
    diagnose,
    lost_rank_zero,
)
from maris_fast.train.heartbeat.identity import Identity
from maris_fast.train.heartbeat.wire import Wire, listen
from maris_fast.train.progress_state import ProgressState
from tests.training.two_heartbeats import Ranks, TwoHeartbeats, stays

LIMITS = Timeouts(silence=30, stall=180, patience=600)
RANKS = [Identity(rank, f"host-{rank // 2}", 100 + rank, "boot", 1) for rank in range(4)]
NOW = 1000.0


def test_a_heartbeat_that_cannot_be_reached_is_named() -> None:
    port = free_port()  # nothing listens there
    with pytest.raises(TrainingError, match=rf"at 127\.0\.0\.1 port {port} cannot be reached: .*refused"):
        rank_module._connect("127.0.0.1", port)


def beat(
    phase: str = "computing", step: int = 7, waiting: float = 0, still: float = 0, on_gpu: bool = False
) -> Beat:
    return Beat(phase, step, waiting, max(still, waiting), "train/engine.py:1 in step", on_gpu)


def on_gpu(phase: str = "computing", still: float = 0, step: int = 7) -> Heard:
    return Heard(NOW, beat(phase, step, still=still, on_gpu=True))


def heard(**changes: Heard) -> dict[int, Heard]:
    """Reports in which all ranks beat and compute, except those given as ``r1=...``."""
    return {rank: changes.get(f"r{rank}", Heard(NOW, beat())) for rank in range(4)}


def text(reports: dict[int, Heard], culprits: tuple[int, ...], status: int = LOST) -> str:
    diagnosis = diagnose(RANKS, reports, NOW, LIMITS)
    assert diagnosis is not None
    assert (diagnosis.culprits, diagnosis.status) == (culprits, status)
    return diagnosis.text


def test_no_rank_is_at_fault_while_all_are_heard_and_none_waits_long() -> None:
    assert diagnose(RANKS, heard(), NOW, LIMITS) is None
    assert diagnose(RANKS, heard(r1=Heard(NOW - 29, beat())), NOW, LIMITS) is None
    waits = Heard(NOW, beat(waiting=179))
    assert (
        diagnose(RANKS, heard(r0=waits, r2=waits, r3=waits, r1=Heard(NOW, beat(still=900))), NOW, LIMITS)
        is None
    )


def test_long_work_that_no_rank_waits_for_is_not_a_fault() -> None:
    for slow in (
        Heard(NOW, beat("evaluating", still=10_000)),
        Heard(NOW, beat(still=10_000)),
        on_gpu("evaluating", 10_000),
        on_gpu("starting", 10_000),
    ):
        assert diagnose(RANKS, heard(r0=slow, r1=slow, r2=slow, r3=slow), NOW, LIMITS) is None


def test_death_comes_before_the_errors_that_it_causes_and_before_what_the_launcher_then_ends() -> None:
    reports = heard(
        r0=Heard(NOW, beat(), failed=(NOW - 1.02, "RuntimeError: connection closed by peer", LOST)),
        r2=Heard(NOW, beat(), gone=NOW - 1),
        r3=Heard(NOW, beat(), gone=NOW - 0.98),
        r1=Heard(NOW, beat(), gone=NOW - 0.5),
    )
    assert "ranks 2, 3 on host-1 are gone, rank 2 last seen after step 7, computing" in text(reports, (2, 3))


def test_the_verdict_waits_for_the_cause_to_be_heard() -> None:
    sign = Heard(NOW, beat(), failed=(NOW - GRACE / 2, "RuntimeError", LOST))
    assert diagnose(RANKS, heard(r0=sign), NOW, LIMITS) is None


def test_one_rank_that_fails_is_named_and_an_error_of_all_is_not_blamed_on_one() -> None:
    own = Heard(NOW, beat("reading data"), failed=(NOW - 1, "shard 3 is torn", FAILED))
    message = text(heard(r2=own), (2,), FAILED)
    assert message.startswith("rank 2 on host-1 (pid 102) failed after step 7, reading data")
    diagnosis = diagnose(RANKS, {rank: replace(own) for rank in range(4)}, NOW, LIMITS)
    assert diagnosis is not None
    assert diagnosis.shared


def test_a_silent_machine_is_named_with_all_its_ranks_and_the_setting() -> None:
    reports = heard(r2=Heard(NOW - 31, beat()), r3=Heard(NOW - 32, beat()))
    message = text(reports, (2, 3))
    assert "ranks 2, 3 on host-1 have been silent for 30 s" in message
    assert "engine.heartbeat_seconds" in message


def test_the_rank_that_others_wait_for_is_named_with_what_it_does_by_the_limit_of_that() -> None:
    waits = Heard(NOW, beat(waiting=181))
    reading = heard(r0=waits, r2=waits, r3=waits, r1=Heard(NOW, beat("reading data", still=181)))
    message = text(reading, (1,))
    assert "engine.stall_seconds = 180" in message
    assert "rank 1 on host-0 (pid 101), last seen after step 7, reading data" in message
    for phase in ("starting", "evaluating", "writing a checkpoint"):
        reports = heard(r0=waits, r2=waits, r3=waits, r1=Heard(NOW, beat(phase, still=181)))
        assert diagnose(RANKS, reports, NOW, LIMITS) is None
        long = Heard(NOW, beat(waiting=601))
        reports = heard(r0=long, r2=long, r3=long, r1=Heard(NOW, beat(phase, still=601)))
        assert "engine.timeout_minutes = 10" in text(reports, (1,))


@pytest.mark.parametrize("phase", ["starting", "compiling", "evaluating", "writing a checkpoint"])
def test_of_several_busy_ranks_in_a_step_those_that_make_progress_are_not_blamed(phase: str) -> None:
    waits = Heard(NOW, beat(waiting=650))
    moves, hangs = Heard(NOW, beat(phase, still=1)), Heard(NOW, beat(phase, still=601))
    message = text(heard(r0=moves, r1=waits, r2=hangs, r3=waits), (2,))
    assert "for rank 2 on host-1 (pid 102), last seen after step 7" in message
    text(heard(r0=hangs, r1=waits, r2=hangs, r3=waits), (0, 2))
    reports = heard(r0=moves, r1=waits, r2=Heard(NOW, beat(phase, still=599)), r3=waits)
    assert diagnose(RANKS, reports, NOW, LIMITS) is None


def test_ranks_that_all_wait_are_reported_with_their_places() -> None:
    waits = Heard(NOW, beat(waiting=200))
    message = text(heard(r0=waits, r1=waits, r2=waits, r3=waits), ())
    assert "rank 3 after step 7, train/engine.py:1 in step" in message


def test_on_gpus_those_that_compute_the_step_wait_for_the_rank_that_does_something_else() -> None:
    """A wait for other ranks that looks like computing: in a call of DeepSpeed that reads from the device."""

    def reports(computes: float, phase: str, still: float) -> dict[int, Heard]:
        waits = on_gpu(still=computes)
        return heard(r0=waits, r1=on_gpu(phase, still), r2=waits, r3=waits)

    message = text(reports(181, "reading data", 182), (1,))
    assert "for 181 s (engine.stall_seconds = 180) for rank 1 on host-0 (pid 101)" in message
    assert "reading data (train/engine.py:1 in step)" in message
    text(reports(601, "evaluating", 602), (1,))
    for computes, phase, still in (
        (179, "reading data", 900),
        (900, "reading data", 179),
        (599, "evaluating", 900),
    ):
        assert diagnose(RANKS, reports(computes, phase, still), NOW, LIMITS) is None
    one_moves = {**reports(900, "reading data", 900), 3: on_gpu()}
    assert diagnose(RANKS, one_moves, NOW, LIMITS) is None


def test_on_gpus_a_rank_that_computes_an_earlier_step_is_named_by_the_longer_limit() -> None:
    def reports(still: float) -> dict[int, Heard]:
        waits = on_gpu(step=8, still=still)
        return heard(r0=waits, r1=waits, r2=on_gpu(still=still), r3=waits)

    assert "engine.timeout_minutes = 10" in text(reports(601), (2,))
    assert diagnose(RANKS, reports(599), NOW, LIMITS) is None


def test_on_gpus_ranks_that_all_compute_one_step_for_the_longer_limit_are_reported_with_their_places() -> (
    None
):
    long = on_gpu(still=601)
    message = text(heard(r0=long, r1=long, r2=long, r3=long), ())
    assert message.startswith("all ranks have made no progress for 601 s (engine.timeout_minutes = 10): ")
    assert "rank 3 after step 7, train/engine.py:1 in step" in message
    assert diagnose(RANKS, heard(r0=long, r1=long, r2=long, r3=on_gpu(still=599)), NOW, LIMITS) is None


def test_on_gpus_ranks_that_wait_as_well_do_not_hide_the_one_that_reads_data() -> None:
    """The rank that writes the log waits recognisably for the device."""
    waits, computes = Heard(NOW, beat(waiting=181, on_gpu=True)), on_gpu(still=185)
    text(heard(r0=waits, r1=on_gpu("reading data", 190), r2=computes, r3=computes), (1,))
    slow = on_gpu("reading data", 10)
    assert diagnose(RANKS, heard(r0=waits, r1=slow, r2=computes, r3=computes), NOW, LIMITS) is None


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["computing", "reading data", "evaluating"]),
            st.floats(0, 170),
            st.floats(0, 29),
        ),
        min_size=4,
        max_size=4,
    ),
    st.booleans(),
    st.booleans(),
)
def test_no_alarm_within_the_limits(
    states: list[tuple[str, float, float]], on_gpu: bool, recognised: bool
) -> None:
    reports = {
        rank: Heard(NOW - silent, beat(phase, waiting=still * recognised, still=still, on_gpu=on_gpu))
        for rank, (phase, still, silent) in enumerate(states)
    }
    assert diagnose(RANKS, reports, NOW, LIMITS) is None


def test_defaults_end_a_run_within_a_minute() -> None:
    assert Timeouts.of(EngineSettings()).silence + 10 < 60


def test_limits_are_the_settings_in_seconds() -> None:
    settings = EngineSettings(heartbeat_seconds=1, stall_seconds=2, timeout_minutes=3)
    assert Timeouts.of(settings) == Timeouts(silence=1, stall=2, patience=180)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_beat_says_whether_its_rank_computes_on_a_gpu(device: str) -> None:
    ranks: Any = SimpleNamespace(world=1, rank=0, progress=ProgressState(), device=torch.device(device))
    assert Heartbeat(ranks, EngineSettings())._beat().on_gpu == (device == "cuda")


def test_strangers_at_the_post_change_nothing() -> None:
    listener = listen()
    port = listener.getsockname()[1]
    coordinator = Coordinator(listener, "secret", RANKS[:1], LIMITS, interval=0.1)
    coordinator.start()
    for words in (b"GET / HTTP/1.1\r\n\r\n", b'{"rank": 0, "token": "guess", "bye": true}\n', b"[1]\n", b""):
        with socket.create_connection(("127.0.0.1", port)) as stranger:
            stranger.sendall(words)
    rank = Wire(socket.create_connection(("127.0.0.1", port)))
    rank.send(rank=0, token="secret")
    until = time.monotonic() + 60
    told: list[dict[str, Any]] = []
    while len(told) < 5 and time.monotonic() < until:
        told += rank.receive(0.1) or []
    assert len(told) >= 5
    assert all(set(message) == {"alive"} for message in told)
    rank.send(bye=True)
    coordinator.join(60)
    assert not coordinator.is_alive()
    rank.close()


@pytest.mark.process
def test_only_the_very_process_is_killed() -> None:
    with subprocess.Popen((sys.executable, "-c", "import time; time.sleep(60)")) as process:
        own = Identity.own(0)
        start = int(Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19])
        known = replace(own, pid=process.pid, started=start)
        replace(known, started=own.started + 1).kill()
        replace(known, machine="another").kill()
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(0.2)
        assert process.poll() is None
        known.kill()
        assert process.wait(5) == -signal.SIGKILL


@pytest.mark.slow
def test_a_run_that_was_suspended_as_a_whole_continues(tmp_path: Path) -> None:
    """As by a batch system for another job, or with a laptop: no rank was heard, and none counts as lost."""
    with TwoHeartbeats(tmp_path / "log", silence=2, work=lambda ranks, heartbeat: stays(6)) as both:
        time.sleep(0.5)
        both.signal(signal.SIGSTOP)
        time.sleep(4)
        os.kill(both.pids[1], signal.SIGCONT)
        time.sleep(0.3)  # during which it receives nothing yet
        os.kill(both.pids[0], signal.SIGCONT)
        assert both.ends() == [0, 0], both.log.read_text()
    assert both.log.read_text() == ""


@pytest.mark.slow
def test_ranks_that_were_suspended_while_they_waited_for_one_another_continue(tmp_path: Path) -> None:
    """They have not waited for the time of the suspension: awake, it is less than the limit of a stall."""

    def waits(ranks: Ranks, heartbeat: Heartbeat) -> None:
        ranks.progress.at("computing", 1)
        with ranks.progress.waiting():
            stays(14)

    with TwoHeartbeats(tmp_path / "log", silence=3, work=waits, stall=10) as both:
        time.sleep(0.5)
        both.signal(signal.SIGSTOP)
        time.sleep(12)
        both.signal(signal.SIGCONT)
        assert both.ends() == [0, 0], both.log.read_text()
    assert both.log.read_text() == ""


@pytest.mark.slow
def test_a_rank_that_is_late_hears_rank_zero_before_it_judges(tmp_path: Path) -> None:
    """Its turns take longer than the interval: it has no time to wait for messages, but it reads them."""

    def late(ranks: Ranks, heartbeat: Heartbeat) -> None:
        if not ranks.first:
            send = heartbeat._wire.send
            heartbeat._wire.send = lambda **words: (time.sleep(0.5), send(**words))  # type: ignore[method-assign]
        stays(4)

    with TwoHeartbeats(tmp_path / "log", silence=2, work=late) as both:
        assert both.ends() == [0, 0], both.log.read_text()
    assert both.log.read_text() == ""


@pytest.mark.parametrize(("behind", "late"), [(0.0, 0.0), (0.5, 0.0), (0.5, 2.0)])
def test_of_two_ranks_that_blame_each_other_at_once_one_speaks(
    tmp_path: Path, behind: float, late: float
) -> None:
    """Rank 0 makes a diagnosis while rank 1 has found it silent, and may print and exit before rank 1 can.

    If rank 0 acts on its own diagnosis late, rank 1 has received it and exited; rank 0 hears of that as well.
    """

    def blame(ranks: Ranks, heartbeat: Heartbeat) -> None:
        if ranks.first:
            ranks.gather("judges")
            act = heartbeat._act
            heartbeat._act = lambda *found, **more: (time.sleep(late), act(*found, **more))  # type: ignore[method-assign]
            assert heartbeat._coordinator is not None
            heartbeat._coordinator._tell(diagnosis=Diagnosis((1,), "rank 1 is stuck").plain())
        else:

            def found_silent(*found: Any, **more: Any) -> Diagnosis:
                ranks.gather("judges")
                time.sleep(behind)
                return lost_rank_zero(*found, **more)

            rank_module.lost_rank_zero = found_silent
            heartbeat._limits = replace(heartbeat._limits, silence=0)
        stays(60)

    with TwoHeartbeats(tmp_path / "log", silence=2, work=blame) as both:
        codes = both.ends()
    (line,) = both.log.read_text().splitlines()
    assert line.startswith(("error: rank 1 is stuck", "error: rank 0 on "))
    # The rank that reports a hung rank kills it.
    assert codes in ([LOST, LOST], [-signal.SIGKILL, LOST])
