"""CRIS' ``anns/<data set>/<split>.json`` with ``masks/<data set>/<segment_id>.png``.

As written by tools/data_process.py of DerrickWang005/CRIS.pytorch; ETRIS and DETRIS use the same format.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel

from maris_fast.data_shards.importers.annotations import or_default
from maris_fast.data_shards.importers.coco_categories import coco_category
from maris_fast.data_shards.importers.image_checks import IMAGE_ROOTS
from maris_fast.data_shards.importers.left_out import BadRows
from maris_fast.data_shards.importers.line_grouping import write_lines
from maris_fast.data_shards.importers.published import published_as
from maris_fast.data_shards.importers.row_lines import LineRow, lines_of
from maris_fast.data_shards.importers.source import Form, Source
from maris_fast.data_shards.records import DatasetInfo

_WHOSE = "CRIS' list of refs"
_ANNS, _MASKS = "anns", "masks"


class CrisSentence(BaseModel):
    sent: Annotated[str, or_default("")]


class CrisRow(LineRow):
    segment_id: int
    img_name: str
    sentences: list[CrisSentence]
    cat: int | None = None

    def line(self) -> dict[str, Any]:
        return {
            "image": self.img_name,
            "sentences": [one.sent for one in self.sentences],
            "mask": f"{self.segment_id}.png",
            "category": coco_category(self.cat),
        }


def read(source: Source) -> DatasetInfo:
    """Read the refs; all values but 0 are inside: ``getMask() * 255`` is 254 where two polygons overlap."""
    bad = BadRows(f"{source.dataset} below {source.root}")
    head = source.head(*published_as(source.dataset), images=(*IMAGE_ROOTS, "."))
    lines = []
    for document in source.documents:
        rows = document.required(_WHOSE)
        lines += lines_of(CrisRow, rows, document.path.name, document.split_or_train, bad, whose=_WHOSE)
    known = source.with_defaults(orientation="stored", mask_values="nonzero")
    return write_lines(known, lines, head, bad, mask_root=_mask_root(source))


def _mask_root(source: Source) -> Path:
    """The path with ``masks`` in place of ``anns``, or else ``masks`` beside the files."""
    place = source.place if source.place.is_dir() else source.place.parent
    if _ANNS not in place.parts:
        return place / _MASKS
    at = len(place.parts) - 1 - place.parts[::-1].index(_ANNS)
    return Path(*place.parts[:at], _MASKS, *place.parts[at + 1 :])


CRIS = Form(
    "anns/NAME/<split>.json with masks/NAME/<segment_id>.png, as CRIS, ETRIS and DETRIS",
    lambda source: any("segment_id" in row for row in source.rows()),
    read,
)
