"""Lines of JSON over TCP between rank 0 and each rank; nobody ever waits for the other end."""

from __future__ import annotations

import json
import select
import socket
from contextlib import suppress
from threading import Lock
from typing import Any

LONGEST = 1 << 16


class Wire:
    """One connection.

    Linux says that a peer's process has ended by closing the connection, at once; a peer that is stopped or
    out of reach says nothing.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.setblocking(False)
        self._rest = b""
        self._sending = Lock()

    def send(self, **message: Any) -> None:
        """Sends, or drops what a peer that reads nothing has no room for."""
        with self._sending, suppress(OSError):
            self.socket.send(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float = 0) -> list[dict[str, Any]] | None:
        """What has come, waiting at most so long for it; None when the other end is closed.

        Raises:
            ValueError: it is none of ours: something else found the port.
        """
        if not select.select([self.socket], [], [], max(0, seconds))[0]:
            return []
        try:
            data = self.socket.recv(LONGEST)
        except (BlockingIOError, InterruptedError):
            return []
        except ConnectionError:
            return None
        if not data:
            return None
        *lines, self._rest = (self._rest + data).split(b"\n")
        messages = [json.loads(line) for line in lines]
        if len(self._rest) > LONGEST or not all(isinstance(message, dict) for message in messages):
            raise ValueError("not a message of a rank")
        return messages

    def close(self) -> None:
        self.socket.close()


def listen() -> socket.socket:
    """On all addresses of this machine, any free port."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # compiled in and switched off
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
    return socket.create_server(("", 0), backlog=4096)
