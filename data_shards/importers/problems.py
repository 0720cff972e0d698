"""All that is wrong with a data set, told at once: nobody wants to learn of 300 missing images one by one."""

from __future__ import annotations

from collections import Counter, defaultdict

from maris_fast.errors import InputError

SHOWN = 10


class Problems:
    """Counts what is found, by kind, and keeps the first few of each kind."""

    def __init__(self, subject: str, *, done: str = "imported") -> None:
        self._subject, self._done = subject, done
        self._numbers: Counter[str] = Counter()
        self._first: dict[str, list[str]] = defaultdict(list)

    def add(self, kind: str, detail: str) -> None:
        """``kind`` says what is wrong and what to do, as a heading; ``detail`` names file and ids."""
        self._numbers[kind] += 1
        if len(self._first[kind]) < SHOWN:
            self._first[kind].append(detail)

    def raise_if_any(self) -> None:
        """
        Raises:
            InputError: something was added.
        """
        if not self._numbers:
            return
        lines = [f"{self._subject} cannot be {self._done}, nothing was written:"]
        for kind, number in self._numbers.items():
            lines.append(f"  {kind} ({number}):")
            lines += [f"    {detail}" for detail in self._first[kind]]
            if number > SHOWN:
                lines.append(f"    ... and {number - SHOWN} more")
        raise InputError("\n".join(lines))
