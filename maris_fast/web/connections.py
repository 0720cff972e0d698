"""Connections to a server: idle ones are closed, and their number per address is limited."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

IDLE_SECONDS = 15.0
"""Time without complete request headers; a connection is closed after one to two times as long."""
OF_ONE = 256
"""Most connections of an address. An open page has two, and a browser uses up to six."""


class Connection(H11Protocol):
    """Uvicorn's with more limits: it has no timeout for headers, and any byte extends its other timeouts."""

    def connection_made(self, transport: asyncio.Transport) -> None:
        super().connection_made(transport)
        self._look: asyncio.TimerHandle | None = None
        self._idle_in: Any = self
        host = self.client and self.client[0]
        if sum((one.client and one.client[0]) == host for one in self.connections) > OF_ONE:
            transport.abort()
            return
        self._look_again()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def _look_again(self) -> None:
        self._look = self.loop.call_later(IDLE_SECONDS, self._end_if_idle)

    def _end_if_idle(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self._idle_in is self.cycle:
            self.transport.abort()
            return
        self._idle_in = self.cycle if idle else self
        self._look_again()
