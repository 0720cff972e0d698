"""Validation of annotation files row by row: a malformed row is left out without affecting the others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from maris_fast.data_shards.importers.annotations import SplitName
from maris_fast.data_shards.importers.left_out import Fault, SourceRow
from maris_fast.data_shards.records import UNKNOWN_SPLIT
from maris_fast.errors import first_of

M = TypeVar("M", bound=BaseModel)

MISSHAPEN = "rows that are not as their format says"
NEEDED = "rows that need one which is not as its format says"
"""Values of ``Fault.kind``."""

_TEXTS = ("sentences", "expressions", "text")
"""Keys of the lists of sentences in the various forms."""


class Misshapen(NamedTuple):
    """A malformed row, with its index in the list, from 0.

    Attributes:
        of: the list's name in its file; "" if the file itself is the list.
    """

    place: int
    keys: Any
    why: str
    of: str = ""

    @property
    def name(self) -> str:
        return f"{self.of} row {self.place}".lstrip()

    @property
    def fault(self) -> Fault:
        return Fault(MISSHAPEN, f"{self.name}: {self.why}")

    def needed(self, by: str) -> Fault:
        """The fault of a row that is left out because it refers to this one."""
        return Fault(NEEDED, f"{by}: {self.name}: {self.why}")

    def id(self, key: str = "id") -> int | None:
        """The id by which other rows refer to it, or None if it has none."""
        try:
            number: int = TypeAdapter(int).validate_python(self.keys[key])
        except (TypeError, LookupError, ValidationError):
            return None
        return number

    def row(self, file: str, split: str, *, said: bool = True) -> SourceRow:
        """
        Args:
            said: whether the row has sentences: as many expressions are lost as it seems to have, else none.
        """
        there = [self.keys.get(name) for name in _TEXTS] if isinstance(self.keys, dict) else []
        lost = next((len(texts) for texts in there if isinstance(texts, list) and texts), 1)
        return SourceRow(file=file, split=split, row=self.name, image=None, expressions=lost if said else 0)


def each(
    kind: type[M], rows: Any, of_use: Callable[[Any], bool] = lambda keys: True, *, of: str = ""
) -> tuple[dict[int, M], list[Misshapen]]:
    """The rows that ``of_use`` accepts: the valid ones as ``kind``, by index, and the malformed ones.

    Args:
        of: the list's name in its file.

    Raises:
        ValueError: ``rows`` is not a list.
    """
    if not isinstance(rows, list):
        raise ValueError(f"{of or 'it'} holds no list, but {type(rows).__name__}")
    checked = TypeAdapter(kind)
    good: dict[int, M] = {}
    misshapen = []
    for place, keys in enumerate(rows):
        if not of_use(keys):
            continue
        try:
            good[place] = checked.validate_python(keys)
        except ValidationError as error:
            misshapen.append(Misshapen(place, keys, first_of(error), of))
    return good, misshapen


def split_of(keys: Any, missing: str = UNKNOWN_SPLIT) -> str:
    """The split that a malformed row names; ``missing``: what an absent or null split means."""
    if not isinstance(keys, dict):
        return UNKNOWN_SPLIT
    said = keys.get("split")
    try:
        split: str = TypeAdapter(SplitName).validate_python(missing if said is None else said)
    except ValidationError:
        return UNKNOWN_SPLIT
    return split
