"""SeqTR's ``instances.json``: ``{"train": [...], "val": [...]}``, one object with its expressions per row.

Read as in its loader (sean-zhuh/SeqTR, datasets/pipelines/loading.py); SimVG, C3VG, DeRIS use this format.
"""

from __future__ import annotations

from typing import Any

from maris_fast.data_shards.importers.image_checks import IMAGE_ROOTS
from maris_fast.data_shards.importers.left_out import BadRows
from maris_fast.data_shards.importers.line_grouping import write_lines
from maris_fast.data_shards.importers.published import published_as
from maris_fast.data_shards.importers.row_lines import LineRow, lines_of
from maris_fast.data_shards.importers.source import Document, Form, Source
from maris_fast.data_shards.records import DatasetInfo
from maris_fast.errors import InputError

_WHOSE = "SeqTR's lists"


class SeqtrRow(LineRow):
    image_id: int
    expressions: list[str]
    mask: Any = None
    bbox: Any = None
    height: int | None = None
    width: int | None = None
    data_source: str = "coco"
    file_name: str | None = None

    def line(self) -> dict[str, Any]:
        name = "COCO_train2014_{:012d}.jpg" if "coco" in self.data_source else "{}.jpg"
        return {
            "image": self.file_name or name.format(self.image_id),
            "sentences": self.expressions,
            "height": self.height,
            "width": self.width,
            **({"mask": self.mask} if self.mask is not None else {"bbox": self.bbox}),
        }


def read(source: Source) -> DatasetInfo:
    """Read one list per split; its images are COCO's of train2014, as stored."""
    bad = BadRows(f"{source.dataset} below {source.root}")
    head = source.head(*published_as(source.dataset), images=(*IMAGE_ROOTS, "."))
    lines = [
        line
        for document in source.documents
        for split, rows in _lists(document).items()
        for line in lines_of(SeqtrRow, rows, document.path.name, split, bad, of=split, whose=_WHOSE)
    ]
    return write_lines(source.with_defaults(orientation="stored"), lines, head, bad)


def _lists(document: Document) -> dict[str, Any]:
    content = document.required(_WHOSE)
    if not isinstance(content, dict):
        raise InputError(f"{document.path} is not {_WHOSE}: it holds no splits, but {type(content).__name__}")
    return content


SEQTR = Form(
    'NAME.json, {"train": [...], "val": [...]} of rows with `expressions`, as SeqTR\'s instances.json',
    lambda source: (
        any("expressions" in row for split in source.lists() for row in source.rows(split))
        and "images" not in source.lists()
    ),
    read,
)
