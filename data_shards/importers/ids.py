"""Duplicate ids in annotation files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

R = TypeVar("R")

TWICE = "ids that several {} have; give each its own"
"""Template of ``Fault.kind``; the placeholder takes the plural of what has the id."""


def by_id(rows: Sequence[R], id_of: Callable[[R], int]) -> tuple[dict[int, R], dict[int, list[R]]]:
    """Rows by id, and all rows of each conflicting id; repetitions of an equal row do not conflict."""
    found: dict[int, R] = {}
    firsts = ((row, found.setdefault(id_of(row), row)) for row in rows)
    differ = {id_of(row) for row, first in firsts if first is not row and first != row}
    at_odds: dict[int, list[R]] = {one: [] for one in differ}
    for row in rows if differ else ():
        if id_of(row) in differ:
            at_odds[id_of(row)].append(row)
    return found, at_odds


def repeated(
    rows: Sequence[R], id_of: Callable[[R], Hashable], content_of: Callable[[R], object]
) -> dict[int, int]:
    """Indices in ``rows`` that are unusable because their id is repeated, with the number of rows of that id.

    All but the first if the rows of the id have equal content, else all, as it is unclear which is meant.
    """
    places: dict[Hashable, list[int]] = defaultdict(list)
    for place, row in enumerate(rows):
        places[id_of(row)].append(place)
    useless: dict[int, int] = {}
    for of_id in places.values():
        if len(of_id) > 1:
            first = content_of(rows[of_id[0]])
            same = all(content_of(rows[place]) == first for place in of_id)
            useless |= dict.fromkeys(of_id[1:] if same else of_id, len(of_id))
    return useless
