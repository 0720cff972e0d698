"""Output to a terminal, where text from users and files must not act as markup or control sequence.

All printed text goes through here: ``say`` and ``printable`` for lines, ``Table`` for tables,
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
"""Used in Persian words and in emoji: in the category of invisible characters, but harmless."""
_OBEYED = ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")
"""Unicode categories: control, format (invisible, bidi), surrogate, private use, other line separators."""


def printable(text: object) -> str:
    """``text`` with escapes for characters that a terminal would obey or hide; newlines and tabs stay."""
    return "".join(one if one in "\n\t" or _is_shown(one) else _escape(one) for one in str(text))


def say(text: object, *, err: bool = False) -> None:
    """Print a line to standard output, or to standard error."""
    write_line(text, sys.stderr if err else sys.stdout)


def write_line(text: object, stream: TextIO) -> None:
    """Write ``text`` and its newline in one call.

    Launchers start Python unbuffered, where ``print`` writes the two separately, and a line of another rank
    or thread comes between them.
    """
    stream.write(f"{printable(text)}\n")
    stream.flush()


def count(number: int, what: str) -> str:
    """``number`` of ``what``, a noun whose plural ends in s: "1 rank", "1,200 steps"."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def with_options(message: str, options: Mapping[str, str]) -> str:
    """``message`` with arguments, which a library names in backticks, replaced by a command's options."""
    return re.sub(r"`(\w+)`", lambda found: options.get(found[1], found[0]), message)


class Table(RichTable):
    """Rich's table, with title, headings and cells shown literally: ``[bold]`` is six characters."""

    def __init__(self, *headers: Any, title: Any = None, **options: Any) -> None:
        super().__init__(*headers, title=_plain(title), **options)

    def add_column(self, header: Any = "", *more: Any, **options: Any) -> None:
        super().add_column(_plain(header), *more, **options)

    def add_row(self, *cells: Any, **options: Any) -> None:
        super().add_row(*map(_plain, cells), **options)


class PrintableFormatter(logging.Formatter):
    """A formatter that passes log lines through ``printable``."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _plain(cell: Any) -> Any:
    return Text(printable(cell)) if isinstance(cell, str) else cell


def _is_shown(letter: str) -> bool:
    return letter in _JOINERS or unicodedata.category(letter) not in _OBEYED


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")
