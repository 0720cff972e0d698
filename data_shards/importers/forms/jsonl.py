"""Users' own data as JSON lines: each line is an expression, or an image with all of its expressions.

``docs/datasets.md`` has the format with an example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from maris_fast.data_shards.importers.checked_rows import split_of
from maris_fast.data_shards.importers.left_out import BadRows, Fault, SourceRow
from maris_fast.data_shards.importers.line_grouping import write_lines
from maris_fast.data_shards.importers.lines import ExpressionLine, ImageLine, Line, parsed_line
from maris_fast.data_shards.importers.source import Form, Source
from maris_fast.data_shards.importers.split_names import files_by_split
from maris_fast.data_shards.importers.text_encoding import utf8_lines
from maris_fast.data_shards.plain_json import parse_json
from maris_fast.data_shards.records import TRAIN, DatasetInfo
from maris_fast.errors import first_of


def read(source: Source) -> DatasetInfo:
    """Read the lines of ``NAME.jsonl``; those without a split belong to "train"."""
    return write_line_files(source)


def write_line_files(
    source: Source,
    row_of: Callable[[Any], ExpressionLine | ImageLine] = parsed_line,
    unreadable: str = "lines that are not as docs/datasets.md says",
) -> DatasetInfo:
    """Write the lines of the source's files; those that are not as documented are left out.

    Args:
        row_of: parses a line's JSON; raises ValueError if it is not as documented.
        unreadable: the reason that is given for such a line.

    Raises:
        InputError: as ``write_lines``.
    """
    files = files_by_split(source.root, source.dataset)
    head = source.head()
    bad = BadRows(f"{source.dataset} below {source.root}")
    return write_lines(source, _Lines(source, files, bad, row_of, unreadable), head, bad)


@dataclass
class _Lines:
    """The lines of files, read anew on each iteration; malformed lines are added to ``bad`` only once."""

    source: Source
    files: list[tuple[str | None, Path]]
    bad: BadRows
    row_of: Callable[[Any], ExpressionLine | ImageLine]
    unreadable: str

    def __iter__(self) -> Iterator[Line]:
        bad, self.bad = self.bad, BadRows("told already")
        for split, path in self.files:
            for line in self._of(path, split, bad):
                below = self.source.images_of(line.split)
                image = f"{below}/{line.row.image}" if below else line.row.image
                yield replace(line, row=line.row.model_copy(update={"image": image})) if below else line

    def _of(self, path: Path, split: str | None, bad: BadRows) -> Iterator[Line]:
        """``split``: the one in the file's name."""
        for number, text in enumerate(utf8_lines(path), start=1):
            if not text.strip():
                continue
            where = f"{path.name}:{number}"
            keys: Any = None
            try:
                keys = parse_json(text)
                row = self.row_of(keys)
            except ValueError as error:
                fault = Fault(self.unreadable, f"{where}: {first_of(error)}")
                bad.add(_unreadable(path.name, number, split or split_of(keys, missing=TRAIN)), fault)
                continue
            if split is not None and row.split not in (None, split):
                detail = f"{where}: {row.split!r} in a file of {split!r}"
                fault = Fault("lines of another split than their file", detail)
                bad.add(_unreadable(path.name, number, split), fault)
                continue
            yield Line(row, path.name, split or row.split or TRAIN, f"line {number}", where)


def _unreadable(file: str, number: int, split: str) -> SourceRow:
    return SourceRow(file=file, split=split, row=f"line {number}", image=None, expressions=1)


JSONL = Form(
    "NAME.jsonl, JSON lines of your own",
    lambda source: source.place.suffix == ".jsonl",
    read,
)
