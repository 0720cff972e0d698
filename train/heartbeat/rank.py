"""Each rank's end of the heartbeat: reports, listens, and ends the process on a diagnosis."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import sys
import time
from dataclasses import asdict, replace
from threading import Event, Thread
from types import FrameType, TracebackType
from typing import Any

from maris_fast.config import EngineSettings
from maris_fast.errors import MarisError, TrainingError
from maris_fast.system.locks import release_all
from maris_fast.system.terminal import write_line
from maris_fast.train.heartbeat.coordinator import Coordinator
from maris_fast.train.heartbeat.diagnosis import (
    FAILED,
    GRACE,
    LOST,
    Beat,
    Diagnosis,
    Timeouts,
    lost_rank_zero,
)
from maris_fast.train.heartbeat.identity import Identity
from maris_fast.train.heartbeat.speaker import Speaker
from maris_fast.train.heartbeat.wire import Wire, listen
from maris_fast.train.progress_state import place_of
from maris_fast.train.ranks import Ranks

INTERRUPTED = 130
GOODBYE = 10.0
"""Seconds for all ranks to say goodbye, after the last thing that they did together."""

LINGER = 0.5
"""Seconds for which a rank stays the speaker after printing, in case another reaches a diagnosis then."""


class Heartbeat:
    """Entered by all ranks together, around everything in which one of them could be lost.

    A thread of each rank reports to rank 0 where its main thread is; a thread of rank 0 listens, and sends
    rank 0's own beats. When a rank dies, falls silent, fails alone, or keeps the others waiting, the others
    report which it was (one per machine does) and exit, whatever their main threads wait for.

    An error that leaves the block is sent to the others. It propagates if it is this rank's own, or common to
    all ranks; if it only follows from another rank's, the process exits here.
    """

    def __init__(self, ranks: Ranks, settings: EngineSettings) -> None:
        self._progress, self._rank = ranks.progress, ranks.rank
        self._on_gpu = ranks.device.type == "cuda"
        self._limits = Timeouts.of(settings)
        self._interval = min(2.0, settings.heartbeat_seconds / 10)
        self._on = ranks.world > 1 and settings.heartbeat_seconds > 0
        self._comm = ranks
        self._leaving = False
        self._ended = False
        self._failed = False
        self._judged = Event()
        self._coordinator: Coordinator | None = None
        self._first: Beat | None = None
        self._signals: Any = signal.SIG_DFL
        self._moves = -1

    def __enter__(self) -> Heartbeat:
        """
        Raises:
            TrainingError: this rank cannot reach rank 0's heartbeat.
        """
        if not self._on:
            return self
        self._ranks = [Identity(**one) for one in self._comm.gather(asdict(Identity.own(self._rank)))]
        listener = listen() if self._comm.first else None
        port, token = self._comm.from_rank_zero(lambda: (_port(listener), secrets.token_hex(16)))
        self._speaker = Speaker(token)
        if listener is not None:
            self._coordinator = Coordinator(listener, token, self._ranks, self._limits, self._interval)
            self._coordinator.start()
        self._signals = signal.signal(signal.SIGTERM, self._terminated)
        self._wire = _connect("127.0.0.1" if self._comm.first else os.environ["MASTER_ADDR"], port)
        self._wire.send(rank=self._rank, token=token)
        self._last = self._still_since = self._waiting_since = time.monotonic()
        self._thread = Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._on:
            return
        if error is None:
            self._leaving = True
            self._wire.send(bye=True)
        else:
            self._failed = True
            beat = replace(self._beat(), waiting=0.0, place=place_of(trace))
            self._wire.send(beat=asdict(beat), failed=_summary(error), status=_status(error))
            # Either another rank turns out to be at fault, and `_run` ends the process, or this one is.
            self._judged.wait(self._limits.silence + 10)
            self._ended = True
        signal.signal(signal.SIGTERM, self._signals)
        # A thread that is still running when Python exits may crash the process.
        self._thread.join(GOODBYE)
        if self._coordinator is not None:
            self._coordinator.join(GOODBYE)

    def _terminated(self, number: int, frame: FrameType | None) -> None:
        # A launcher that has seen a rank die ends the others at once: wait for the diagnosis first.
        self._judged.wait(4 * GRACE)
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)

    def _run(self) -> None:
        turn = time.monotonic()
        while not self._ended:
            self._wire.send(beat=asdict(self._beat()))
            # At least once, however late it is: there may be an unread message of rank 0.
            self._listen(turn + self._interval - time.monotonic())
            while not self._ended and (left := turn + self._interval - time.monotonic()) > 0:
                self._listen(left)
            now = time.monotonic()
            if now - turn > 3 * self._interval + 1:
                # This process itself was suspended.
                self._last = now
                self._still_since += now - turn
                self._waiting_since += now - turn
            turn = now
            if not self._ended and now - self._last > self._limits.silence:
                self._act(lost_rank_zero(self._ranks, self._first, self._limits, silent=True))

    def _listen(self, seconds: float) -> None:
        try:
            messages = self._wire.receive(seconds)
        except (OSError, ValueError):
            time.sleep(min(max(seconds, 0.01), 0.1))  # unreachable: treated as silence
            return
        if messages is None:
            if not self._leaving:
                self._act(lost_rank_zero(self._ranks, self._first, self._limits, silent=False))
            self._ended = True
            return
        for message in messages:
            self._last = time.monotonic()
            if message.get("alive") is not None:
                self._first = Beat(**message["alive"])
            if "over" in message:
                self._ended = True
            if "diagnosis" in message and not self._ended:
                self._act(Diagnosis.of(message["diagnosis"]), told=True)

    def _beat(self) -> Beat:
        now = time.monotonic()
        waits, place = self._progress.look()
        if self._progress.moves != self._moves:
            self._moves, self._still_since = self._progress.moves, now
            self._waiting_since = now
        elif not waits:
            self._waiting_since = now
        waiting = max(now - self._waiting_since, 1e-3) if waits else 0.0
        still = now - self._still_since
        return Beat(self._progress.phase, self._progress.step, waiting, still, place, self._on_gpu)

    def _act(self, diagnosis: Diagnosis, *, told: bool = False) -> None:
        """End this process on its own diagnosis, or on one that rank 0 sent (``told``)."""
        self._ended = True
        if self._failed and (diagnosis.shared or self._rank in diagnosis.culprits):
            self._judged.set()
            return
        machine = self._ranks[self._rank].machine
        survivors = [
            one.rank for one in self._ranks if one.machine == machine and one.rank not in diagnosis.culprits
        ]
        first = bool(survivors) and self._rank == survivors[0]
        speaks = first and (told or not self._overruled())
        if speaks and self._speaker.takes_the_word():
            _say(f"error: {diagnosis.text}")
            if diagnosis.hung:
                # Its launcher would wait for it, for half a minute or for ever.
                for rank in diagnosis.culprits:
                    self._ranks[rank].kill()
            time.sleep(LINGER)
        sys.stdout.flush()
        sys.stderr.flush()
        release_all()
        # Not an exception: the main thread may wait in a collective that never ends.
        os._exit(diagnosis.status)

    def _overruled(self) -> bool:
        """Whether rank 0 has sent a diagnosis meanwhile: it sends to all ranks before it prints."""
        try:
            return any("diagnosis" in message for message in self._wire.receive() or ())
        except (OSError, ValueError):
            return False


def _port(listener: socket.socket | None) -> int:
    assert listener is not None
    port: int = listener.getsockname()[1]
    return port


def _connect(address: str, port: int) -> Wire:
    try:
        return Wire(socket.create_connection((address, port), timeout=20))
    except OSError as error:
        raise TrainingError(
            f"rank 0's heartbeat at {address} port {port} cannot be reached: {error}; let ranks open any "
            "port to each other (gloo needs that too), or set engine.heartbeat_seconds=0 to go without"
        ) from error


def _status(error: BaseException) -> int:
    if isinstance(error, MarisError):
        return FAILED
    return LOST if isinstance(error, Exception) else INTERRUPTED


def _summary(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    lines = str(error).strip().splitlines() or [""]
    text = str(error) if isinstance(error, MarisError) else f"{type(error).__name__}: {lines[0]}"
    return text[:4000]


def _say(text: str) -> None:
    if sys.stderr.isatty():
        text = f"\x1b[?25h\n{text}"  # a progress bar has hidden the cursor
    write_line(text, sys.stderr)
