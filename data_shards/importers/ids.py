"""Ids that stand twice in annotation files."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

R = TypeVar("R")

TWICE = "ids that several {} have; give each its own"
"""Kind of fault, of the plural of what has the id."""


def by_id(rows: Sequence[R], id_of: Callable[[R], int]) -> tuple[dict[int, R], dict[int, list[R]]]:
    """Rows by id, and those of ids that mean different rows; the same row again is nothing."""
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
    """Places in ``rows`` that an id makes useless, and how many rows have that id.

    Of rows with the same content all but the first; of others all, as nobody knows which is meant.
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
