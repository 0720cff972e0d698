"""The importer: recognizes the form of a data set and imports it."""

from __future__ import annotations

from pathlib import Path

from maris_fast.data_shards.importers.dataset_files import write_head
from maris_fast.data_shards.importers.forms.captions import CAPTIONS
from maris_fast.data_shards.importers.forms.coco import COCO
from maris_fast.data_shards.importers.forms.cris import CRIS
from maris_fast.data_shards.importers.forms.cris_lmdb import CRIS_LMDB
from maris_fast.data_shards.importers.forms.jsonl import JSONL
from maris_fast.data_shards.importers.forms.labelme import LABELME
from maris_fast.data_shards.importers.forms.parquet import PARQUET
from maris_fast.data_shards.importers.forms.phrasecut import PHRASECUT
from maris_fast.data_shards.importers.forms.predictions import PREDICTIONS
from maris_fast.data_shards.importers.forms.refer import REFER
from maris_fast.data_shards.importers.forms.sa2va import SA2VA
from maris_fast.data_shards.importers.forms.seqtr import SEQTR
from maris_fast.data_shards.importers.forms.zipped import ZIP
from maris_fast.data_shards.importers.import_report import ImportReport
from maris_fast.data_shards.importers.options import DEFAULT, ImportOptions
from maris_fast.data_shards.importers.source import Form, Source
from maris_fast.data_shards.importers.split_names import PLACEHOLDER, files_by_split
from maris_fast.errors import ConfigError, InputError
from maris_fast.system.new_folder import new_folder

FORMS = (
    *(REFER, ZIP, PHRASECUT, PARQUET, CRIS_LMDB, PREDICTIONS, JSONL),
    *(CAPTIONS, SEQTR, SA2VA, CRIS, COCO, LABELME),
)
"""In order of precedence: the first that recognizes the source is used."""
DOCUMENT = "docs/datasets.md"


def import_dataset(
    root: Path,
    dataset: str,
    out: Path,
    options: ImportOptions = DEFAULT,
    *,
    split_by: str | None = None,
) -> ImportReport:
    """Import ``root/<dataset>``, whichever of the known forms it has; ``docs/datasets.md`` lists them.

    Args:
        root: folder that holds the data set, and its images if they are at their usual place.
        dataset: folder or file below ``root``; with ``{split}`` in a file's name, one file per split.
        out: a new or an empty folder; its contents are described in ``records``.
        options: which splits, where images are, what becomes of rows that cannot be used.
        split_by: ``unc``, ``umd``, ``google``, ... for data sets that are divided in several ways.

    Raises:
        InputError: ``out`` is not empty, a file is missing or damaged as a whole, or rows cannot be used and
            may not be left out, or are more than half. All problems are reported together with the ids;
            nothing is left behind.
        ConfigError: ``split_by`` for a data set that has none.
    """
    with new_folder(out) as folder:
        source = Source(Path(root).absolute(), dataset, options, split_by, folder)
        form = form_of(source)
        if split_by is not None and not form.divided:
            raise ConfigError(
                f"`split_by` {split_by}: {dataset} has only one division into splits; leave it out"
            )
        info = form.read(source)
        images = Path(info.image_root)
        if images.is_relative_to(folder.absolute()):  # images that the form has written
            place = Path(out).resolve() / images.relative_to(folder.absolute())
            info = info.model_copy(update={"image_root": str(place)})
            write_head(folder, info)
        return ImportReport(out, info)


def form_of(source: Source) -> Form:
    """
    Raises:
        InputError: no such file or folder, or it is of no known form.
    """
    for form in FORMS:
        if form.found(source):
            return form
    _require_there(source)
    forms = "".join(f"\n  {form.files}" for form in FORMS)
    raise InputError(f"{source.place} has none of the known forms ({DOCUMENT}):{forms}")


def _require_there(source: Source) -> None:
    """
    Raises:
        InputError: no such file or folder, or no file has a split's name in place of ``{split}``.
    """
    if PLACEHOLDER in source.dataset:
        files_by_split(source.root, source.dataset)
    elif not source.place.exists():
        root = source.root
        folders = (path.name for path in root.iterdir() if _is_dataset(source, path)) if root.is_dir() else ()
        there = ", ".join(sorted(folders)) or "none"
        raise InputError(f"no folder {source.place}; data sets below {root}: {there}")


def _is_dataset(source: Source, place: Path) -> bool:
    other = Source(source.root, place.name, source.options, None, source.folder)
    return place.is_dir() and any(form.found(other) for form in FORMS)
