"""Files of refs: pickled as the RefCOCO family's, or JSON as gRefCOCO's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from maris_fast.data_shards.importers.annotations import RefRow
from maris_fast.data_shards.importers.checked_rows import Misshapen, each
from maris_fast.data_shards.importers.safe_pickle import load_plain_pickle
from maris_fast.data_shards.importers.text_encoding import read_json
from maris_fast.data_shards.plain_json import parse_json
from maris_fast.errors import InputError


class Refs(NamedTuple):
    """A file's refs, and its rows that are none."""

    rows: list[RefRow]
    misshapen: list[Misshapen]


def read_refs(path: Path) -> Refs:
    """The rows of ``refs(<split_by>).p``.

    Raises:
        InputError: no such file, not a plain pickle, or not a list.
    """
    return _refs(path, load_plain_pickle(path), "RefCOCO")


def read_grefs(path: Path) -> Refs:
    """The rows of gRefCOCO's ``grefs(<split_by>).json``.

    Raises:
        InputError: no such file, not JSON, or not a list.
    """
    content = read_json(path)
    try:
        rows = parse_json(content)
    except ValueError as error:
        raise _not_refs(path, "gRefCOCO", error) from error
    return _refs(path, rows, "gRefCOCO")


def _refs(path: Path, rows: Any, whose: str) -> Refs:
    try:
        good, misshapen = each(RefRow, rows)
    except ValueError as error:
        raise _not_refs(path, whose, error) from error
    return Refs(list(good.values()), misshapen)


def _not_refs(path: Path, whose: str, error: ValueError) -> InputError:
    return InputError(f"{path} is not a list of refs as {whose}'s authors publish them: {error}")
