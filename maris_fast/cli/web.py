"""What the commands share that other programs connect to."""

from __future__ import annotations

from typing import Annotated

import typer

from maris_fast.system.terminal import say

Host = Annotated[str, typer.Option(help="address to listen on; any other lets other machines connect")]
AllowHost = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="additional host name that it is asked by; may be repeated"),
]
LOCAL = "127.0.0.1"


def note_if_open(host: str, what: str) -> None:
    """Says that others can use it."""
    if host not in (LOCAL, "::1", "localhost"):
        say(f"note: whoever reaches {host} can use this {what}, it asks for no password", err=True)
