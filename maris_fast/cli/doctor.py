"""``doctor``: whether this machine can do a run, before hours are spent on it."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group

from maris_fast.cli.options import Overrides
from maris_fast.system.terminal import Table

if TYPE_CHECKING:
    from maris_fast.doctor import Check, Result

COLOURS = {"ok": "green", "not run": "dim", "warning": "yellow", "broken": "red"}
WIDTH = 100_000
"""Without a terminal: no line is wrapped, so that the output can be searched."""


def doctor(
    overrides: Overrides = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(
            help="YAML file of a run or cache, or the name of a shipped one; may be repeated; later files win"
        ),
    ] = None,
    cache: Annotated[str | None, typer.Option(help="cache to check; default: data.cache of --config")] = None,
    ranks: Annotated[int | None, typer.Option(min=1, help="processes on this machine; default: 1")] = None,
    machines: Annotated[int, typer.Option(min=1, help="machines of the run")] = 1,
    only: Annotated[
        list[str] | None, typer.Option(help="check to run; may be repeated; default: all")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the findings as JSON")] = False,
) -> None:
    """Check this machine for a run, and print problems with their fixes; exit status 1 if there are any.

    Under srun or torchrun all ranks meet, and the first of each machine examines it.
    """
    from maris_fast.config import cache_place
    from maris_fast.doctor import MEETING, examine
    from maris_fast.doctor.subject import subject_of
    from maris_fast.errors import ConfigError

    if overrides and not config:
        raise ConfigError(f"{overrides[0]} changes the settings of a run; name its file with --config")
    place = cache_place(cache) if cache else None
    subject = subject_of(config or (), overrides or (), cache=place, ranks=ranks, machines=machines)
    checks = [check for check in _chosen(only or ()) if subject.first_here or check is MEETING]
    if subject.launched:  # ranks meet before all else, so that none waits for another's checks
        checks.sort(key=lambda check: check is not MEETING)
    console = Console(quiet=as_json or not subject.first_here, highlight=False)
    if not console.is_terminal:
        console.width = WIDTH

    def starting(name: str) -> None:
        if console.is_terminal and not subject.launched:
            console.print(f"{'...':<9}{name}", end="\r", style="dim")

    results = []
    for result in examine(checks, subject, starting):
        results.append(result)
        if not subject.launched:
            console.print(_row(result))
    if subject.launched:  # in one piece, since several machines may print to one place
        console.print(Group(*map(_row, results)))
    if as_json and subject.first_here:
        print(_as_json(results), flush=True)
    broken, warnings = (_count(results, status) for status in ("broken", "warning"))
    said = f"{broken} broken" if broken else "nothing is broken"
    console.print(f"{socket.gethostname()}: {said}, {warnings} to be aware of", markup=False)
    sys.exit(1 if broken else 0)


def _chosen(names: Sequence[str]) -> list[Check]:
    from maris_fast.doctor import CHECKS
    from maris_fast.errors import ConfigError

    known = [check.name for check in CHECKS]
    for name in names:
        if name not in known:
            raise ConfigError(f"--only {name!r}: there is no such check; known: {', '.join(known)}")
    return [check for check in CHECKS if not names or check.name in names]


def _row(result: Result) -> Table:
    found = result.finding
    row = Table(box=None, show_header=False, pad_edge=False)
    row.add_column(width=7)
    row.add_column(width=16)
    row.add_column()
    told = (found.came, found.needed and f"needed: {found.needed}", found.todo and f"to do: {found.todo}")
    row.add_row(found.status, result.name, "\n".join(filter(None, told)), style=COLOURS[found.status])
    return row


def _as_json(results: Sequence[Result]) -> str:
    rows = [{"check": one.name, **asdict(one.finding), "seconds": round(one.seconds, 2)} for one in results]
    return json.dumps({"host": socket.gethostname(), "checks": rows}, indent=1)


def _count(results: Sequence[Result], status: str) -> int:
    return sum(result.finding.status == status for result in results)
