"""Converts rows of other forms to the equivalent lines of users' own data."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from maris_fast.data_shards.importers.checked_rows import Misshapen, each
from maris_fast.data_shards.importers.left_out import BadRows
from maris_fast.data_shards.importers.lines import Line, parsed_line
from maris_fast.errors import InputError, first_of


class LineRow(BaseModel):
    """A row of another form."""

    def line(self) -> dict[str, Any]:
        """The keys of a line, see ``lines``.

        Raises:
            ValueError: the row's parts do not fit each other.
        """
        raise NotImplementedError


def lines_of(
    kind: type[LineRow], rows: Any, file: str, split: str, bad: BadRows, *, of: str = "", whose: str
) -> list[Line]:
    """The lines that are equivalent to rows; malformed rows are added to ``bad``.

    Args:
        of: the list's name in its file.
        whose: what the file should be, for the message.

    Raises:
        InputError: ``rows`` is not a list.
    """
    try:
        good, misshapen = each(kind, rows, of=of)
    except ValueError as error:
        raise InputError(f"{file} is not {whose}: {error}") from error
    lines = []
    for place, row in good.items():
        name = f"{of} row {place}".lstrip()
        try:
            lines.append(Line(parsed_line(row.line()), file, split, name, f"{file}: {name}"))
        except ValueError as error:
            misshapen.append(Misshapen(place, rows[place], first_of(error), of))
    for one in misshapen:
        bad.add(one.row(file, split), one.fault)
    return lines
