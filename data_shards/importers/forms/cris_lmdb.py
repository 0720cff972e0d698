"""CRIS' ``<split>.lmdb``, as its tools/folder2lmdb.py writes them; ETRIS and DETRIS use the same format.

An entry is a ref with the files of its image and its mask. Since February 2024 it is a pickle of protocol 5,
read as plain data. Before, it was in the encoding of ``pyarrow.serialize``: a few counts, and then an Arrow
stream with one column of one value. pyarrow has dropped the function, but still reads the stream. Nothing in
it is code.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from PIL import Image
from pydantic import model_validator

from maris_fast.data_shards.importers.annotations import or_default
from maris_fast.data_shards.importers.coco_categories import coco_category
from maris_fast.data_shards.importers.embedded_images import head_with_images
from maris_fast.data_shards.importers.left_out import BadRows
from maris_fast.data_shards.importers.line_grouping import write_lines
from maris_fast.data_shards.importers.published import published_as
from maris_fast.data_shards.importers.row_lines import LineRow, lines_of
from maris_fast.data_shards.importers.safe_pickle import plain_pickle
from maris_fast.data_shards.importers.source import Form, Source
from maris_fast.data_shards.importers.split_names import files_by_split, split_of_name
from maris_fast.data_shards.records import TRAIN, DatasetInfo
from maris_fast.errors import InputError
from maris_fast.images import png_of
from maris_fast.rle import Rle

SUFFIX = ".lmdb"
_KEYS = b"__keys__"
_PICKLE = b"\x80"
"""Start of a pickle from protocol 2 on."""
_STREAM = b"\xff\xff\xff\xff"
"""Start of an Arrow stream, since version 0.15."""
_MOST_COUNTS = 64
_WHOSE = "CRIS' list of refs"


class LmdbRow(LineRow):
    """An entry, without its image."""

    img_name: str
    seg_id: int
    sents: list[Annotated[str, or_default("")]]
    mask: bytes
    cat: int | None = None

    @model_validator(mode="before")
    @classmethod
    def _whole(cls, entry: Any) -> Any:
        if isinstance(entry, str):  # the error message of an entry that cannot be decoded
            raise ValueError(entry)
        return entry

    def line(self) -> dict[str, Any]:
        try:
            inside = np.asarray(png_of(self.mask).convert("L")) != 0
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f"the mask of segment {self.seg_id} cannot be read: {error}") from error
        return {
            "image": self.img_name,
            "sentences": self.sents,
            "mask": Rle.encode(inside).model_dump(mode="json"),
            "category": coco_category(self.cat),
        }


def read(source: Source) -> DatasetInfo:
    """Read the refs; all values but 0 are inside a mask; images are written out if COCO's own are missing."""
    files = [(split or split_of_name(path.stem) or TRAIN, path) for split, path in _paths(source)]
    embedded = (
        (row.get("img_name"), row.get("img")) for _, path in files for row in _rows(path) if _is_row(row)
    )
    head = head_with_images(source, *published_as(source.dataset), lambda: embedded)
    bad = BadRows(f"{source.dataset} below {source.root}")
    lines = []
    for split, path in files:
        rows = [_without_image(row) for row in _rows(path)]
        lines += lines_of(LmdbRow, rows, path.name, split, bad, whose=_WHOSE)
    return write_lines(source.with_defaults(orientation="stored"), lines, head, bad)


def _is_row(row: Any) -> bool:
    return isinstance(row, dict)


def _without_image(row: Any) -> Any:
    return {name: value for name, value in row.items() if name != "img"} if _is_row(row) else row


def _rows(path: Path) -> Iterator[Any]:
    """The entries in order; an error message in place of one that cannot be decoded.

    Raises:
        InputError: not an LMDB file, or not CRIS', or an entry is a pickle that names a global.
    """
    with _opened(path) as entry_of:
        listed = entry_of(_KEYS)
        try:
            keys = _value(listed, f"{path}, entry {_KEYS!r}") if listed is not None else None
        except ValueError:
            keys = None
        if not isinstance(keys, list):
            raise InputError(f"{path} is not CRIS': it has no list of entries under __keys__")
        for key in keys:
            content = entry_of(key) if isinstance(key, bytes) else None
            if content is None:
                yield f"no entry {key!r}"
                continue
            try:
                yield _value(content, f"{path}, entry {key!r}")
            except ValueError as error:
                yield f"entry {key!r}: {error}"


def _value(content: bytes, where: str) -> Any:
    """The value that was pickled, or passed to ``pyarrow.serialize``.

    Raises:
        ValueError: another encoding, or damage.
        InputError: a pickle that names a global.
    """
    from pyarrow import ArrowException

    start = content.find(_STREAM, 0, _MOST_COUNTS)
    pickled = content.startswith(_PICKLE)
    if start < 0 and not pickled:
        raise ValueError("neither a pickle nor in the encoding of pyarrow.serialize from version 0.15 on")
    try:
        return plain_pickle(content, where) if pickled else _plain(_of_stream(content[start:]))
    except (ArrowException, ValueError, OSError) as error:
        raise ValueError(f"its encoding is damaged: {error}") from error


def _of_stream(content: bytes) -> Any:
    from pyarrow import BufferReader, ipc

    (row,) = ipc.open_stream(BufferReader(content)).read_all().to_pylist()
    (value,) = row.values()
    return value


def _plain(value: Any) -> Any:
    """The value with dictionaries restored, which were written as lists of pairs."""
    if not isinstance(value, list):
        return value
    if value and all(isinstance(one, dict) and one.keys() == {"keys", "vals"} for one in value):
        return {pair["keys"]: _plain(pair["vals"]) for pair in value}
    return [_plain(one) for one in value]


@contextmanager
def _opened(path: Path) -> Iterator[Callable[[bytes], bytes | None]]:
    try:
        import lmdb
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"{path} is read by lmdb and pyarrow, and {error.name} is not installed; run: "
            "pip install 'maris-fast[lmdb]'"
        ) from error
    file = path / "data.mdb" if path.is_dir() else path
    try:
        size = file.stat().st_size
        environment = lmdb.open(str(path), subdir=path.is_dir(), readonly=True, lock=False, readahead=False)
    except (lmdb.Error, OSError) as error:
        raise InputError(f"{path} is not an LMDB file: {error}; copy it again") from error
    with environment:
        # Pages past the end of a truncated file are mapped too, and reading one kills the process.
        whole = (environment.info()["last_pgno"] + 1) * environment.stat()["psize"]
        if size < whole:
            raise InputError(f"{path} is cut: it has {size:,} bytes and needs {whole:,}; copy it again")
        try:
            with environment.begin() as transaction:
                yield transaction.get
        except lmdb.Error as error:
            raise InputError(f"{path} is damaged: {error}; copy it again") from error


def _paths(source: Source) -> list[tuple[str | None, Path]]:
    if source.place.suffix == SUFFIX:
        if source.place.is_dir():
            return [(None, source.place)]
        return files_by_split(source.root, source.dataset)
    return [(None, path) for path in sorted(source.place.glob(f"*{SUFFIX}"))]


CRIS_LMDB = Form(
    "<split>.lmdb, as CRIS, ETRIS and DETRIS",
    lambda source: source.place.suffix == SUFFIX or any(source.place.glob(f"*{SUFFIX}")),
    read,
)
