"""Lines of JSON over TCP between rank 0 and each rank; neither end ever blocks on the other."""

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

    When a peer's process ends, Linux closes the connection at once; a peer that is stopped or unreachable
    sends nothing.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.setblocking(False)
        self._rest = b""
        self._sending = Lock()

    def send(self, **message: Any) -> None:
        """Sends a message, or drops it if the peer does not read and its buffer is full."""
        with self._sending, suppress(OSError):
            self.socket.send(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float = 0) -> list[dict[str, Any]] | None:
        """Messages that have arrived, after waiting at most ``seconds``; None when the other end is closed.

        Raises:
            ValueError: not a message of ours: another program found the port.
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
    """Listens on all addresses of this machine, on any free port."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):  # IPv6 is compiled in, but switched off
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True, backlog=4096)
    return socket.create_server(("", 0), backlog=4096)
