"""What people's own data have in common, whatever their format."""

from __future__ import annotations

from pathlib import Path

from maris_fast.data_shards.importers.image_checks import find_image_root
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.split_names import PLACEHOLDER
from maris_fast.data_shards.records import TRAIN, DatasetInfo

SPLIT = TRAIN
"""Of images and lines that name none."""


def own_head(root: Path, dataset: str, options: ImportOptions) -> DatasetInfo:
    """The head of a data set that is named by its file, but for its counts.

    Raises:
        InputError: there is no folder of images.
    """
    return DatasetInfo(
        name=Path(dataset).stem.replace(PLACEHOLDER, "").strip("._-") or root.name,
        split_by="own",
        image_root=str(find_image_root(root, options.images, (".",)).resolve()),
        source=str(root / dataset),
        splits={},
    )
