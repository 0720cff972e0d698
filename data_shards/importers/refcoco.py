"""RefCOCO, RefCOCO+ (unc), G-Ref (umd, google), and whatever else is laid out like them."""

from __future__ import annotations

from pathlib import Path

from maris_fast.data_shards.importers.annotations import AnnotationRow, ImageRow
from maris_fast.data_shards.importers.grouping import write_refs
from maris_fast.data_shards.importers.image_checks import find_image_root
from maris_fast.data_shards.importers.import_report import ImportReport
from maris_fast.data_shards.importers.instances import read_instances
from maris_fast.data_shards.importers.options import DEFAULT, ImportOptions
from maris_fast.data_shards.importers.refs import read_refs
from maris_fast.data_shards.records import DatasetInfo
from maris_fast.errors import InputError
from maris_fast.system.new_folder import new_folder

OF_COCO = ("refcoco", "refcoco+", "refcocog")
"""Their ``ann_id`` is COCO's; of another data set in this layout nobody knows."""


def import_refcoco(
    root: Path,
    dataset: str,
    split_by: str,
    out: Path,
    options: ImportOptions = DEFAULT,
) -> ImportReport:
    """Import ``root/<dataset>/refs(<split_by>).p`` with its ``instances.json`` to the folder ``out``.

    Args:
        root: holds the data sets' folders and ``images/mscoco/images/train2014`` or ``images/train2014``.
        dataset: name of the folder, such as ``refcoco``, ``refcoco+``, ``refcocog``.
        split_by: ``unc``, ``umd``, ``google``, ...
        out: a new or an empty folder; what is written there is described in ``records``.

    Raises:
        InputError: ``out`` is not empty, a file is missing or damaged as a whole, or rows cannot be used and
            may not be left out, or are more than half. All problems are reported together with the ids;
            nothing is left behind.
    """
    root = Path(root).absolute()
    with new_folder(out) as folder:
        source = root / dataset / f"refs({split_by}).p"
        _check_dataset(root, dataset, split_by)
        refs = read_refs(source)
        instances = read_instances(root / dataset / "instances.json", ImageRow, AnnotationRow)
        head = DatasetInfo(
            name=dataset,
            split_by=split_by,
            image_root=str(find_image_root(root, options.images)),
            source=str(source),
            coco_annotations=dataset in OF_COCO,
            splits={},
        )
        return ImportReport(out, write_refs(folder, refs, instances, head, options))


def _check_dataset(root: Path, dataset: str, split_by: str) -> None:
    folder = root / dataset
    if not folder.is_dir():
        there = sorted(path.parent.name for path in root.glob("*/refs(*).p"))
        raise InputError(
            f"no folder {folder}; data sets below {root}: {', '.join(dict.fromkeys(there)) or 'none'}"
        )
    if not (folder / f"refs({split_by}).p").is_file():
        there = sorted(path.name[len("refs(") : -len(").p")] for path in folder.glob("refs(*).p"))
        raise InputError(
            f"no file {folder / f'refs({split_by}).p'}; split_by there is: {', '.join(there) or 'none'}"
        )
