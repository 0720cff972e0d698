"""Text on its way to a terminal: that of people and files stays text, neither markup nor control sequence.

All that is printed goes through here: ``say`` and ``printable`` for lines, ``Table`` for tables,
``PrintableFormatter`` for the log.
"""

from __future__ import annotations

import logging
import re
import sys
import unicodedata
from collections.abc import Mapping
from typing import Any, TextIO

from rich.table import Table as RichTable  # noqa: TID251
from rich.text import Text

_JOINERS = "\u200c\u200d"
"""Of Persian words and of emoji: of the class of invisible characters, but without harm."""
_OBEYED = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Classes of Unicode: controls, invisible and turning characters, half characters, other ends of lines."""


def printable(text: object) -> str:
    """``text`` with escapes in place of what a terminal would obey or hide; lines and tabs stay."""
    return "".join(one if one in "\n\t" or _is_shown(one) else _escape(one) for one in str(text))


def say(text: object, *, err: bool = False) -> None:
    """A line on standard output, or on standard error."""
    write_line(text, sys.stderr if err else sys.stdout)


def write_line(text: object, stream: TextIO) -> None:
    """``text`` and its end in one write.

    Launchers start Python unbuffered, where ``print`` writes the two apart, and another rank's or thread's
    line comes between them.
    """
    stream.write(f"{printable(text)}\n")
    stream.flush()


def with_options(message: str, options: Mapping[str, str]) -> str:
    """``message`` with a command's options in place of arguments, which a library names in backticks."""
    return re.sub(r"`(\w+)`", lambda found: options.get(found[1], found[0]), message)


class Table(RichTable):
    """Rich's table, whose title, headings and cells are shown as they are: ``[bold]`` is six characters."""

    def __init__(self, *headers: Any, title: Any = None, **options: Any) -> None:
        super().__init__(*headers, title=_plain(title), **options)

    def add_column(self, header: Any = "", *more: Any, **options: Any) -> None:
        super().add_column(_plain(header), *more, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_plain, cells), **options)


class PrintableFormatter(logging.Formatter):
    """Log lines as ``printable`` gives them."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _plain(cell: Any) -> Any:
    return Text(printable(cell)) if isinstance(cell, str) else cell


def _is_shown(letter: str) -> bool:
    return letter in _JOINERS or unicodedata.category(letter) not in _OBEYED


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
