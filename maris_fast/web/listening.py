"""A socket to listen at, and uvicorn with this project's limits."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn

from maris_fast.errors import ConfigError
from maris_fast.web.connections import Connection
from maris_fast.web.gate import Gate


@contextmanager
def listening(host: str, port: int, what: str = "page") -> Iterator[socket.socket]:
    """The socket of a server that is about to start; clients that connect before that wait.

    Args:
        port: 0 takes a free one.
        what: what is served, for the error message.

    Raises:
        ConfigError: it is not possible to listen there.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.create_server(address[:2], family=family)
    except OSError as error:
        raise ConfigError(
            f"no {what} at {host}, port {port}: {error.strerror}; "
            "name another with `host` and `port` (0: any free)"
        ) from error
    with listener:
        yield listener


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def settings(gate: Gate, *, grace: float = 1) -> uvicorn.Config:
    """Uvicorn's configuration for the app behind the gate.

    Args:
        grace: seconds to wait for open connections at shutdown.
    """
    return uvicorn.Config(
        gate,
        http=Connection,
        log_level="warning",
        timeout_graceful_shutdown=round(grace),
        server_header=False,
    )


class Server(uvicorn.Server):
    """Calls ``on_start`` once it accepts requests."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_start()
