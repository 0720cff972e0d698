"""People's own data as JSON lines: an expression, or an image with all of its expressions, a line.

``docs/datasets.md`` has the format with an example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from maris_fast.data_shards.importers.checked_rows import split_of
from maris_fast.data_shards.importers.left_out import BadRows, Fault, SourceRow
from maris_fast.data_shards.importers.line_grouping import write_lines
from maris_fast.data_shards.importers.lines import ExpressionLine, ImageLine, Line, parsed_line
from maris_fast.data_shards.importers.source import Form, Source
from maris_fast.data_shards.importers.split_names import files_by_split
from maris_fast.data_shards.importers.text_encoding import read_utf8
from maris_fast.data_shards.plain_json import parse_json
from maris_fast.data_shards.records import TRAIN, DatasetInfo
from maris_fast.errors import first_of


def read(source: Source) -> DatasetInfo:
    """Lines of ``NAME.jsonl``; those without a split are of "train"."""
    files = files_by_split(source.root, source.dataset)
    head = source.head()
    bad = BadRows(f"{source.dataset} below {source.root}")
    lines = [
        replace(line, row=line.row.model_copy(update={"image": f"{below}/{line.row.image}"}))
        if below
        else line
        for split, path in files
        for line in read_lines(path, split, bad)
        for below in [source.images_of(line.split)]
    ]
    return write_lines(source, lines, head, bad)


def read_lines(
    path: Path,
    split: str | None,
    bad: BadRows,
    row_of: Callable[[Any], ExpressionLine | ImageLine] = parsed_line,
    unreadable: str = "lines that are not as docs/datasets.md says",
) -> list[Line]:
    """The lines of a file; those that are not as documented are added to ``bad``.

    Args:
        split: what the file's name says.
        row_of: of a line's JSON; raises ValueError where it is none.
        unreadable: the reason that such a line has.

    Raises:
        InputError: no such file.
    """
    lines = []
    for number, text in enumerate(read_utf8(path).splitlines(), start=1):
        if not text.strip():
            continue
        where = f"{path.name}:{number}"
        keys: Any = None
        try:
            keys = parse_json(text)
            row = row_of(keys)
        except ValueError as error:
            fault = Fault(unreadable, f"{where}: {first_of(error)}")
            bad.add(_unreadable(path.name, number, split or split_of(keys, missing=TRAIN)), fault)
            continue
        if split is not None and row.split not in (None, split):
            detail = f"{where}: {row.split!r} in a file of {split!r}"
            bad.add(
                _unreadable(path.name, number, split), Fault("lines of another split than their file", detail)
            )
            continue
        lines.append(Line(row, path.name, split or row.split or TRAIN, f"line {number}", where))
    return lines


def _unreadable(file: str, number: int, split: str) -> SourceRow:
    return SourceRow(file=file, split=split, row=f"line {number}", image=None, expressions=1)


JSONL = Form(
    "NAME.jsonl, JSON lines of your own",
    lambda source: source.place.suffix == ".jsonl",
    read,
)
