"""Rows of an annotation file, each checked for its keys: one that is not as its format says is lost alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from maris_fast.data_shards.importers.annotations import SplitName
from maris_fast.data_shards.importers.left_out import Fault, Row
from maris_fast.data_shards.records import UNKNOWN_SPLIT
from maris_fast.errors import first_of

M = TypeVar("M", bound=BaseModel)

MISSHAPEN = "rows that are not as their format says"
"""Kind of fault."""


class Misshapen(NamedTuple):
    """Such a row, with its place in the file, from 0."""

    place: int
    keys: Any
    why: str

    @property
    def fault(self) -> Fault:
        return Fault(MISSHAPEN, f"row {self.place}: {self.why}")

    def row(self, file: str, split: str) -> Row:
        """With as many expressions as it seems to have."""
        said = self.keys.get("sentences") if isinstance(self.keys, dict) else None
        lost = len(said) if isinstance(said, list) and said else 1
        return Row(file=file, split=split, row=f"row {self.place}", image=None, expressions=lost)


def each(
    kind: type[M], rows: Any, of_use: Callable[[Any], bool] = lambda keys: True
) -> tuple[dict[int, M], list[Misshapen]]:
    """The rows that are of use, by place, and those of them that are no ``kind``.

    Raises:
        ValueError: there is no list of rows.
    """
    if not isinstance(rows, list):
        raise ValueError(f"it holds no list, but {type(rows).__name__}")
    checked = TypeAdapter(kind)
    good: dict[int, M] = {}
    misshapen = []
    for place, keys in enumerate(rows):
        if not of_use(keys):
            continue
        try:
            good[place] = checked.validate_python(keys)
        except ValidationError as error:
            misshapen.append(Misshapen(place, keys, first_of(error)))
    return good, misshapen


def split_of(keys: Any, missing: str = UNKNOWN_SPLIT) -> str:
    """What a row that is otherwise wrong says of its split; ``missing``: what none means."""
    if not isinstance(keys, dict):
        return UNKNOWN_SPLIT
    try:
        split: str = TypeAdapter(SplitName).validate_python(keys.get("split", missing))
    except ValidationError:
        return UNKNOWN_SPLIT
    return split
