"""Parquet files of the Hugging Face Hub: ``jxu124/refcoco`` and the like, and ``moondream/refcoco-m``.

Columns as on the data sets' cards: the first have one ref per row, with its annotation and its image as JSON;
the second one image per row, with its file, and its objects with run lengths. Needs pyarrow, an extra.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import BaseModel, BeforeValidator

from maris_fast.data_shards.importers.annotations import (
    AnnotationRow,
    CategoryRow,
    ImageRow,
    InfoRow,
    RefRow,
    SentenceRow,
    SplitName,
    or_default,
)
from maris_fast.data_shards.importers.checked_rows import M, Misshapen, each
from maris_fast.data_shards.importers.coco_categories import COCO_CATEGORIES
from maris_fast.data_shards.importers.embedded_images import head_with_images
from maris_fast.data_shards.importers.grouping import Refs, write_refs
from maris_fast.data_shards.importers.image_checks import IMAGE_ROOTS
from maris_fast.data_shards.importers.instances import Instances
from maris_fast.data_shards.importers.published import published_as
from maris_fast.data_shards.importers.source import Form, Source
from maris_fast.data_shards.importers.split_names import files_by_split, split_of_name
from maris_fast.data_shards.plain_json import parse_json
from maris_fast.data_shards.records import TRAIN, DatasetInfo
from maris_fast.errors import InputError

if TYPE_CHECKING:
    from pyarrow.parquet import ParquetFile

_PLACES = ("*.parquet", "data/*.parquet", "default/*/*.parquet")
_PART = re.compile(r"-\d{5}-of-\d{5}.*")
"""What follows the split in a file's name."""
_BATCH = 64
"""Rows read at once; those with images have half a megabyte each."""

_from_json = BeforeValidator(lambda text: parse_json(text) if isinstance(text, str) else text)


class HubRefRow(RefRow):
    """A row of ``jxu124/refcoco``."""

    raw_anns: Annotated[AnnotationRow, _from_json]
    raw_image_info: Annotated[ImageRow, _from_json]


class SampleRow(BaseModel):
    id: int
    sentences: list[Annotated[str, or_default("")]]
    category: Annotated[str, or_default("")] = ""
    mask: Any = None
    bbox: Any = None


class HubImageRow(BaseModel):
    """A row of ``moondream/refcoco-m``."""

    image_id: int
    file_name: str
    samples: list[SampleRow]
    split: SplitName


_COLUMNS = {
    HubRefRow: ("ref_id", "ann_id", "image_id", "sentences", "raw_anns", "raw_image_info"),
    HubImageRow: ("image_id", "file_name", "samples"),
}


class _File(NamedTuple):
    split: str
    path: Path
    parquet: ParquetFile

    @property
    def columns(self) -> list[str]:
        return list(self.parquet.schema_arrow.names)

    def rows(self, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The rows with their split: their own, or else that of the file.

        Raises:
            InputError: the file is damaged.
        """
        there = [column for column in (*columns, "split") if column in self.columns]
        try:
            for batch in self.parquet.iter_batches(_BATCH, columns=there):
                for row in batch.to_pylist():
                    yield {**row, "split": _usual(row.get("split")) or self.split}
        except (OSError, ValueError) as error:
            raise _damaged(self.path, error) from error


def _usual(split: Any) -> Any:
    return (split_of_name(split) or split) if isinstance(split, str) else split


def read(source: Source) -> DatasetInfo:
    """Read the rows as refs; images in a Parquet file are written out if COCO's own are missing."""
    files = [_File(split, path, _opened(path)) for split, path in _paths(source)]
    columns = set(files[0].columns).intersection(*(file.columns for file in files))
    if columns >= {*_COLUMNS[HubRefRow]}:
        name, split_by = published_as(source.dataset)
        head = source.head(name, split_by, images=IMAGE_ROOTS, coco_annotations=True)
        refs: Sequence[RefRow]
        refs, misshapen = hub, misshapen = _checked(HubRefRow, files)
        categories = [CategoryRow(id=number, name=name) for number, name in COCO_CATEGORIES.items()]
        images, annotations = [ref.raw_image_info for ref in hub], [ref.raw_anns for ref in hub]
    elif columns >= {*_COLUMNS[HubImageRow]}:
        have_images = all("image" in file.columns for file in files)
        embedded = partial(_embedded, files) if have_images else None
        head = head_with_images(source, "refcoco-m", "unc", embedded)
        source = source.with_defaults(orientation="stored")
        rows, misshapen = _checked(HubImageRow, files)
        images, annotations, categories, refs = _refs_of_images(rows)
    else:
        raise InputError(
            f"{source.place} has the columns {', '.join(sorted(columns))}; known are those of jxu124/refcoco "
            f"({', '.join(_COLUMNS[HubRefRow])}) and moondream/refcoco-m ({', '.join(_COLUMNS[HubImageRow])})"
        )
    instances = Instances(InfoRow(), images, annotations, categories, (), source.place.name)
    return write_refs(source, Refs(refs, misshapen), instances, head)


def _refs_of_images(
    rows: Sequence[HubImageRow],
) -> tuple[list[ImageRow], list[AnnotationRow], list[CategoryRow], list[RefRow]]:
    """Images, annotations, categories and refs; sentences are numbered from 1, masks give the image sizes."""
    numbers, categories = count(1), dict[str, int]()
    images, annotations, refs = [], [], []
    for row in rows:
        sizes = (one.mask.get("size") for one in row.samples if isinstance(one.mask, dict))
        height, width = next((size for size in sizes if size and len(size) == 2), (0, 0))
        images.append(ImageRow(id=row.image_id, file_name=row.file_name, height=height, width=width))
        for one in row.samples:
            category = categories.setdefault(one.category, 1 + len(categories))
            said = [SentenceRow(sent_id=next(numbers), sent=text) for text in one.sentences]
            annotations.append(
                AnnotationRow(
                    id=one.id,
                    image_id=row.image_id,
                    category_id=category,
                    segmentation=one.mask,
                    bbox=one.bbox,
                )
            )
            refs.append(
                RefRow(
                    ref_id=one.id, ann_ids=(one.id,), image_id=row.image_id, split=row.split, sentences=said
                )
            )
    return images, annotations, [CategoryRow(id=n, name=name) for name, n in categories.items()], refs


def _embedded(files: Sequence[_File]) -> Iterator[tuple[Any, Any]]:
    for row in (row for file in files for row in file.rows(("image", "file_name"))):
        yield row["file_name"], row["image"].get("bytes") if isinstance(row["image"], dict) else None


def _checked(kind: type[M], files: Sequence[_File]) -> tuple[list[M], list[Misshapen]]:
    good: list[M] = []
    misshapen: list[Misshapen] = []
    for file in files:
        rows, wrong = each(kind, list(file.rows(_COLUMNS[kind])), of=file.path.name)
        good += rows.values()
        misshapen += wrong
    return good, misshapen


def _paths(source: Source) -> list[tuple[str, Path]]:
    if source.place.is_dir():
        paths: list[tuple[str | None, Path]] = [
            (None, path) for pattern in _PLACES for path in sorted(source.place.glob(pattern))
        ]
    else:
        paths = files_by_split(source.root, source.dataset)
    return [
        (split or split_of_name(_PART.sub("", path.stem)) or split_of_name(path.parent.name) or TRAIN, path)
        for split, path in paths
    ]


def _opened(path: Path) -> ParquetFile:
    try:
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise InputError(
            f"{path} is read by pyarrow, which is not installed; run: pip install 'maris-fast[parquet]'"
        ) from error
    try:
        return ParquetFile(path)
    except (OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _damaged(path: Path, error: Exception) -> InputError:
    why = next(iter(str(error).splitlines()), type(error).__name__)
    return InputError(f"{path} is not a whole Parquet file: {why}; download it again")


PARQUET = Form(
    "*.parquet, as jxu124/refcoco and moondream/refcoco-m on the Hugging Face Hub",
    lambda source: (
        source.place.suffix == ".parquet" or any(any(source.place.glob(pattern)) for pattern in _PLACES)
    ),
    read,
)
