"""The splits of a data set: their usual order, and the selection of those that were requested."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from glob import escape, glob
from pathlib import Path

from maris_fast.data_shards.records import VAL
from maris_fast.errors import InputError

SPLIT_ORDER = ("train", "val", "test", "testA", "testB")


def chosen_splits(there: Iterable[str], wanted: Sequence[str] | None, source: object) -> list[str]:
    """The wanted splits among those in ``there``, in their usual order; None or empty: all.

    Args:
        source: where they are, for the message.

    Raises:
        InputError: a wanted split does not exist.
    """
    order = {split: rank for rank, split in enumerate(SPLIT_ORDER)}
    known = sorted(set(there), key=lambda split: (order.get(split, len(order)), split))
    for split in wanted or ():
        if split not in known:
            close = difflib.get_close_matches(split, known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise InputError(f"no split {split!r} in {source}; it has {', '.join(known)}{hint}")
    return [split for split in known if not wanted or split in wanted]


PLACEHOLDER = "{split}"


def files_by_split(root: Path, pattern: str) -> list[tuple[str | None, Path]]:
    """The file ``root/pattern``; with ``{split}`` in it, every matching file and its split.

    Raises:
        InputError: there is no such file.
    """
    whole = root / pattern
    if PLACEHOLDER not in pattern:
        if not whole.is_file():
            raise InputError(f"no file {whole}")
        return [(None, whole)]
    parts = str(whole).split(PLACEHOLDER)
    of_split = ["(?P<split>[A-Za-z0-9_-]+)", *["(?P=split)"] * (len(parts) - 2), ""]
    named = re.compile("".join(re.escape(part) + group for part, group in zip(parts, of_split, strict=True)))
    there = sorted(glob("*".join(map(escape, parts))))
    files = [(found["split"], Path(path)) for path in there if (found := named.fullmatch(path))]
    if not files:
        raise InputError(f"no file {whole} with a split's name in place of {PLACEHOLDER}")
    return [(split, path) for split, path in files]


def file_of(split: str, pattern: str) -> str:
    """The name of a split's file; ``pattern`` itself if it has no placeholder."""
    return pattern.replace(PLACEHOLDER, split)


_IN_NAMES = re.compile(r"(?:.*[^A-Za-z0-9])?(train|valid|validation|val|test[A-Z]?)")


def split_of_name(name: str) -> str | None:
    """The split, by its usual name, that a file's or folder's name ends with, or None."""
    found = _IN_NAMES.fullmatch(name)
    return {"valid": VAL, "validation": VAL}.get(found[1], found[1]) if found else None
