"""RefCOCO, RefCOCO+ (unc), G-Ref (umd, google), gRefCOCO, and other data sets in the same layout."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maris_fast.data_shards.importers.annotations import AnnotationRow, ImageRow, RefRow
from maris_fast.data_shards.importers.checked_rows import each
from maris_fast.data_shards.importers.grouping import Refs, write_refs
from maris_fast.data_shards.importers.image_checks import IMAGE_ROOTS
from maris_fast.data_shards.importers.instances import read_instances
from maris_fast.data_shards.importers.safe_pickle import load_plain_pickle
from maris_fast.data_shards.importers.source import Document, Form, Source
from maris_fast.data_shards.importers.text_encoding import read_json
from maris_fast.data_shards.plain_json import parse_json
from maris_fast.data_shards.records import DatasetInfo
from maris_fast.errors import InputError

OF_COCO = ("refcoco", "refcoco+", "refcocog", "grefcoco")
"""Data sets whose ``ann_id`` is COCO's; for others in this layout it is unknown."""

REFS, GREFS, INSTANCES = "refs({}).p", "grefs({}).json", "instances.json"


def read(source: Source) -> DatasetInfo:
    """``refs(<split_by>).p``, or gRefCOCO's ``grefs(<split_by>).json``, with ``instances.json``.

    A ref's target is the union of its objects; ``ann_id`` [-1] is an empty target. As in the baseline of
    gRefCOCO's authors, crowds are left out of the union, but here not if there are only crowds.
    """
    files = GREFS if _has_grefs(source) else REFS
    split_by = source.split_by or _only_split_by(source.place, files)
    path = source.place / files.format(split_by)
    if not path.is_file():
        there = ", ".join(_split_bys(source.place, files))
        raise InputError(f"no file {path}; split_by there is: {there}")
    refs = _refs(path, "gRefCOCO" if files == GREFS else "RefCOCO")
    instances = read_instances(Document(source.place / INSTANCES), ImageRow, AnnotationRow)
    name = "grefcoco" if files == GREFS else source.place.name
    head = source.head(
        name,
        split_by,
        images=IMAGE_ROOTS,
        source=str(source.root / source.dataset / path.name),
        coco_annotations=name in OF_COCO,
    )
    return write_refs(source, refs, instances, head)


def _refs(path: Path, whose: str) -> Refs:
    """
    Raises:
        InputError: no such file, neither a plain pickle nor JSON, or not a list.
    """
    try:
        rows: Any = load_plain_pickle(path) if path.suffix == ".p" else parse_json(read_json(path))
        good, misshapen = each(RefRow, rows)
    except InputError:
        raise
    except ValueError as error:
        raise InputError(
            f"{path} is not a list of refs as {whose}'s authors publish them: {error}"
        ) from error
    return Refs(list(good.values()), misshapen)


def _has_grefs(source: Source) -> bool:
    """Whether to read gRefCOCO's file; if both kinds exist, the folder's name decides."""
    if not any(source.place.glob(GREFS.format("*"))):
        return False
    return source.place.name == "grefcoco" or not any(source.place.glob(REFS.format("*")))


def _split_bys(place: Path, files: str) -> list[str]:
    head, tail = files.split("{}")
    return sorted(path.name[len(head) : -len(tail)] for path in place.glob(files.format("*")))


def _only_split_by(place: Path, files: str) -> str:
    there = _split_bys(place, files)
    if len(there) != 1:
        raise InputError(
            f"{place} has several divisions into splits; choose one of `split_by` {', '.join(there)}"
        )
    return there[0]


REFER = Form(
    "refs(<split-by>).p or grefs(<split-by>).json with instances.json, as RefCOCO and gRefCOCO",
    lambda source: any(source.place.glob(REFS.format("*"))) or any(source.place.glob(GREFS.format("*"))),
    read,
    divided=True,
)
