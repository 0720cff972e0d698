"""Common parts of commands that serve over the network: their options, their start and their end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from maris_fast.cli.predictor import load_predictor
from maris_fast.system.terminal import say

if TYPE_CHECKING:
    import socket

    from maris_fast.prediction import Predictor

Host = Annotated[str, typer.Option(help="address to listen on; any other lets other machines connect")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="port; 0: any free one")]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="additional host name that it is asked by; may be repeated"),
]
LOCAL = "127.0.0.1"


@contextmanager
def of_extra(extra: str, what: str, *packages: str) -> Iterator[None]:
    """Context for imports: raise a ConfigError that names the extra if one of ``packages`` is missing."""
    from maris_fast.errors import ConfigError

    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in packages:
            raise
        raise ConfigError(
            f"{what} needs {error.name}, which is not installed: pip install 'maris-fast[{extra}]'"
        ) from error


@contextmanager
def asked_at(
    host: str,
    port: int,
    what: str,
    weights: Path,
    sam_weights: str | None,
    text_weights: str | None,
    device: str,
) -> Iterator[tuple[socket.socket, Predictor]]:
    """A listener and a predictor, for a block that serves until Ctrl-C; then the process exits.

    Raises:
        ConfigError, CheckpointError: see ``listening`` and ``load_predictor``.
    """
    import os
    import sys
    from contextlib import suppress

    from maris_fast.web.listening import listening

    if host not in (LOCAL, "::1", "localhost"):
        say(f"note: anyone who can reach {host} can use this {what}: there is no password", err=True)
    with listening(host, port, what) as listener:
        predictor = load_predictor(weights, sam_weights, text_weights, device)
        with suppress(KeyboardInterrupt):
            yield listener, predictor
        say("ended", err=True)
    # Everything is closed and removed; do not wait for computations in progress.
    sys.stdout.flush()
    os._exit(0)


def tell_address(address: str) -> None:
    say(f"{address}  (Ctrl-C ends it)")
