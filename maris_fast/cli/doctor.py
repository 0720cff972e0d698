"""``doctor``: whether this machine can do a run, before hours are spent on it."""

from __future__ import annotations

import json
import socket
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from maris_fast.system.terminal import printable

if TYPE_CHECKING:
    from maris_fast.doctor import Check, Result, Subject

COLOURS = {"ok": "green", "not run": "dim", "warning": "yellow", "broken": "red"}
INDENT = 28
"""Columns before what a check has found."""


def doctor(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="settings that override the files'")
    ] = None,
    config: Annotated[
        list[Path] | None,
        typer.Option(
            help="YAML file of a run or cache, or the name of a shipped one; may be repeated, later files win"
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="cache to check; default: data.cache of --config")
    ] = None,
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
    from maris_fast.doctor.checks import MEETING
    from maris_fast.doctor.subject import subject_of
    from maris_fast.errors import ConfigError

    if overrides and not config:
        raise ConfigError(f"{overrides[0]} changes the settings of a run; name its file with --config")
    subject = subject_of(config or (), overrides or (), cache=cache, ranks=ranks, machines=machines)
    first_here = subject.first_here
    report = Report(quiet=as_json or not first_here, at_once=subject.launched)
    checks = [check for check in _chosen(only or ()) if first_here or check is MEETING]
    results = _examined(subject, report, checks)
    if as_json and first_here:
        print(_as_json(results), flush=True)
    report.end(results)
    sys.exit(1 if _count(results, "broken") else 0)


def _chosen(names: Sequence[str]) -> list[Check]:
    from maris_fast.doctor.checks import CHECKS
    from maris_fast.errors import ConfigError

    known = [check.name for check in CHECKS]
    for name in names:
        if name not in known:
            raise ConfigError(f"--only {name!r}: there is no such check; known: {', '.join(known)}")
    return [check for check in CHECKS if not names or check.name in names]


def _examined(subject: Subject, report: Report, checks: Sequence[Check]) -> list[Result]:
    from maris_fast.doctor.checks import MEETING
    from maris_fast.doctor.examining import examine

    if subject.launched:  # ranks meet before all else, so that none waits for another's checks
        checks = sorted(checks, key=lambda check: check is not MEETING)
    results = []
    for result in examine(checks, subject, report.starting):
        results.append(result)
        report.say(result)
    return results


class Report:
    """A row a check, as soon as it has ended; on a terminal also which one runs.

    ``at_once``: all rows at the end, where several machines print to one place.
    """

    def __init__(self, *, quiet: bool, at_once: bool) -> None:
        from rich.console import Console

        self._console = Console(soft_wrap=True, quiet=quiet, highlight=False)
        self._at_once = at_once

    def starting(self, name: str) -> None:
        if self._console.is_terminal and not self._at_once:
            self._console.print(_first_columns("...", name), end="\r", style="dim")

    def say(self, result: Result) -> None:
        if not self._at_once:
            self._print([result])

    def end(self, results: Sequence[Result]) -> None:
        if self._at_once:
            self._print(results)
        broken, warnings = (_count(results, status) for status in ("broken", "warning"))
        said = f"{broken} broken" if broken else "nothing is broken"
        self._console.print(f"{socket.gethostname()}: {said}, {warnings} to be aware of", markup=False)

    def _print(self, results: Sequence[Result]) -> None:
        width = self._console.width if self._console.is_terminal else None
        text = Text("\n").join(
            Text(printable(_row(one, width)), COLOURS[one.finding.status]) for one in results
        )
        self._console.print(text)


def _row(result: Result, width: int | None) -> str:
    """``width``: of the terminal; None: nothing is broken into lines, for who searches in it."""
    found = result.finding
    parts = [found.came]
    parts += [f"needed: {found.needed}"] if found.needed else []
    parts += [f"to do: {found.todo}"] if found.todo else []
    lines = []
    for line in "\n".join(parts).splitlines():
        lines += textwrap.wrap(line, max(40, width - INDENT)) if width else [line]
    first, *others = lines
    return "\n".join([_first_columns(found.status, result.name) + first, *(INDENT * " " + x for x in others)])


def _first_columns(status: str, name: str) -> str:
    return f"{status:<9}{name:<{INDENT - 9}}"


def _as_json(results: Sequence[Result]) -> str:
    rows = [{"check": one.name, **asdict(one.finding), "seconds": round(one.seconds, 2)} for one in results]
    return json.dumps({"host": socket.gethostname(), "checks": rows}, indent=1)


def _count(results: Sequence[Result], status: str) -> int:
    return sum(result.finding.status == status for result in results)
