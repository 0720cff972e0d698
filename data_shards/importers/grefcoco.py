"""gRefCOCO: expressions that mean one object of COCO's, several together, or none."""

from __future__ import annotations

from pathlib import Path

from maris_fast.data_shards.importers.annotations import AnnotationRow, ImageRow
from maris_fast.data_shards.importers.grouping import write_refs
from maris_fast.data_shards.importers.image_checks import find_image_root
from maris_fast.data_shards.importers.import_report import ImportReport
from maris_fast.data_shards.importers.instances import read_instances
from maris_fast.data_shards.importers.options import DEFAULT, ImportOptions
from maris_fast.data_shards.importers.refs import read_grefs
from maris_fast.data_shards.records import DatasetInfo
from maris_fast.errors import InputError
from maris_fast.system.new_folder import new_folder


def import_grefcoco(
    root: Path,
    dataset: str,
    split_by: str,
    out: Path,
    options: ImportOptions = DEFAULT,
) -> ImportReport:
    """Import ``root/<dataset>/grefs(<split_by>).json`` with its ``instances.json`` to the folder ``out``.

    A ref's target is the union of its objects. As in the authors' baseline, a crowd among several is left
    out of the union; ``ann_id`` [-1] is an empty target.

    Args:
        dataset: name of the folder, as a rule ``grefcoco``.
        split_by: ``unc``.
        root, out: as ``import_refcoco``'s.

    Raises:
        InputError: as ``import_refcoco``.
    """
    root = Path(root).absolute()
    with new_folder(out) as folder:
        source = root / dataset / f"grefs({split_by}).json"
        if not source.is_file():
            raise InputError(
                f"no file {source}; gRefCOCO's authors publish it, and instances.json stands beside it"
            )
        refs = read_grefs(source)
        instances = read_instances(root / dataset / "instances.json", ImageRow, AnnotationRow)
        head = DatasetInfo(
            name="grefcoco",
            split_by=split_by,
            image_root=str(find_image_root(root, options.images)),
            source=str(source),
            coco_annotations=True,
            splits={},
        )
        return ImportReport(out, write_refs(folder, refs, instances, head, options))
