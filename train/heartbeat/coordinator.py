"""Rank 0's end of the heartbeat: hears all ranks, makes the diagnosis, and sends it to all of them."""

from __future__ import annotations

import hmac
import selectors
import socket
import time
from collections.abc import Sequence
from dataclasses import asdict
from threading import Thread
from typing import Any

from maris_fast.train.heartbeat.diagnosis import GRACE, Beat, Heard, Timeouts, diagnose
from maris_fast.train.heartbeat.identity import Identity
from maris_fast.train.heartbeat.wire import Wire


class Coordinator(Thread):
    """A thread beside rank 0's training; ends when all ranks have said goodbye, or with a diagnosis."""

    def __init__(
        self,
        listener: socket.socket,
        token: str,
        ranks: Sequence[Identity],
        limits: Timeouts,
        interval: float,
    ) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._listener, self._token = listener, token
        self._ranks, self._limits, self._interval = ranks, limits, interval
        self._selector = selectors.DefaultSelector()
        self._wires: dict[int, Wire] = {}
        self._heard: dict[int, Heard] = {}
        self._over = False

    def run(self) -> None:
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)
        now = time.monotonic()
        self._heard = {one.rank: Heard(now) for one in self._ranks}
        turn, told = now, 0.0
        while not self._over:
            events = self._selector.select(min(self._interval, GRACE))
            now = time.monotonic()
            if now - turn > 3 * self._interval:
                for one in self._heard.values():  # this process itself was suspended and could hear no rank
                    one.last = now
            turn = now
            for key, _ in events:
                if key.data is None:
                    self._accept()
                else:
                    self._read(key.data, now)
            if now - told >= self._interval:
                told = now
                self._tell(alive=self._own_beat())
            diagnosis = diagnose(self._ranks, self._heard, now, self._limits)
            if diagnosis is not None:
                self._tell(diagnosis=diagnosis.plain())
                return
        self._tell(over=True)

    def _own_beat(self) -> dict[str, Any] | None:
        own = self._heard.get(0)
        return asdict(own.beat) if own is not None and own.beat is not None else None

    def _tell(self, **message: Any) -> None:
        # Rank 0 last: it may end this process.
        for _, wire in sorted(self._wires.items(), reverse=True):
            wire.send(**message)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        wire = Wire(connection)
        self._selector.register(connection, selectors.EVENT_READ, [wire, None])

    def _read(self, caller: list[Any], now: float) -> None:
        wire, rank = caller
        try:
            messages = wire.receive()
            for message in messages or ():
                if caller[1] is None:
                    caller[1] = rank = self._known(message)
                    self._wires[rank] = wire
                self._take(rank, message, now)
        except (ValueError, KeyError, TypeError):
            messages = None
        except OSError:
            return  # unreachable: treated as silence
        if messages is None:
            self._selector.unregister(wire.socket)
            wire.close()
            if rank in self._heard and self._wires.pop(rank, None) is not None:
                self._heard[rank].gone = now

    def _known(self, hello: dict[str, Any]) -> int:
        if not hmac.compare_digest(str(hello["token"]), self._token):
            raise ValueError("a stranger")
        return int(hello["rank"])

    def _take(self, rank: int, message: dict[str, Any], now: float) -> None:
        one = self._heard.get(rank)
        if one is None:
            return
        one.last = now
        if "beat" in message and one.failed is None:
            one.beat = Beat(**message["beat"])
        if "failed" in message:
            one.failed = one.failed or (now, message["failed"], message["status"])
        if "bye" in message:
            del self._heard[rank]
            self._over = not self._heard
