"""The finding of a check."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "not run", "warning", "broken"]
WORST_LAST: tuple[Status, ...] = ("ok", "not run", "warning", "broken")


@dataclass(frozen=True)
class Finding:
    """``came``: what was found; ``needed``: what is needed, and ``todo``: what to change, where that differs.

    "warning": a run can start, but may fail or be slower than necessary. "broken": it cannot start, or not
    as its settings say. "not run": nothing was checked, and no problem is known.
    """

    status: Status
    came: str
    needed: str = ""
    todo: str = ""


def ok(came: str) -> Finding:
    return Finding("ok", came)


def not_run(why: str, todo: str = "") -> Finding:
    return Finding("not run", why, todo=todo)


def warning(came: str, needed: str, todo: str) -> Finding:
    return Finding("warning", came, needed, todo)


def broken(came: str, needed: str, todo: str) -> Finding:
    return Finding("broken", came, needed, todo)


def size(number: int) -> str:
    """A number of bytes in human-readable form."""
    return f"{number / 2**30:,.1f} GiB" if number >= 2**30 else f"{number / 2**20:,.1f} MiB"


def together(findings: Iterable[Finding]) -> Finding:
    """Merge one or more findings: the status is the worst, and problems, worst first, hide the others."""
    worst_first = sorted(findings, key=lambda one: WORST_LAST.index(one.status), reverse=True)
    loudest = [one for one in worst_first if one.status in ("warning", "broken")] or worst_first

    def joined(texts: Iterable[str]) -> str:
        return "; ".join(dict.fromkeys(text for text in texts if text))

    return Finding(
        worst_first[0].status,
        joined(one.came for one in loudest),
        joined(one.needed for one in loudest),
        joined(one.todo for one in loudest),
    )
