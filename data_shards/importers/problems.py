"""All problems of a data set, reported together, so that 300 missing images do not come up one by one."""

from __future__ import annotations

from collections import defaultdict

from maris_fast.errors import InputError

SHOWN = 10


class Problems:
    """Problems by kind; the message has the count of each kind and its first ``shown`` (None: all)."""

    def __init__(self, subject: str, *, done: str = "imported", shown: int | None = SHOWN) -> None:
        self._subject, self._done, self._shown = subject, done, shown
        self._details: dict[str, dict[str, None]] = defaultdict(dict)

    def add(self, kind: str, detail: str) -> None:
        """``kind`` says what is wrong and what to do, as a heading; ``detail`` names file and ids.

        A repeated detail, such as the missing image of another ref, is listed once.
        """
        self._details[kind][detail] = None

    def raise_if_any(self, advice: str = "") -> None:
        """
        Args:
            advice: the message's last line.

        Raises:
            InputError: something was added.
        """
        if not self._details:
            return
        lines = [f"{self._subject} cannot be {self._done}, nothing was written:", *self.lines()]
        raise InputError("\n".join([*lines, advice] if advice else lines))

    def lines(self) -> list[str]:
        """The kinds, and below each its first details."""
        lines = []
        for kind, details in self._details.items():
            lines.append(f"  {kind} ({len(details):,}):")
            told = list(details)[: self._shown]
            lines += [f"    {detail}" for detail in told]
            if len(details) > len(told):
                lines.append(f"    ... and {len(details) - len(told):,} more")
        return lines
