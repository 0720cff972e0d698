"""Images that stand within a data set's own files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from maris_fast.data_shards.importers.image_checks import IMAGE_ROOTS
from maris_fast.data_shards.importers.paths import place_of
from maris_fast.data_shards.importers.source import Source
from maris_fast.data_shards.records import DatasetInfo
from maris_fast.errors import InputError
from maris_fast.system.files import FULL


def head_with_images(
    source: Source,
    name: str | None,
    split_by: str,
    embedded: Callable[[], Iterable[tuple[Any, Any]]] | None,
) -> DatasetInfo:
    """The head; images are COCO's own where they are, else the embedded ones, which are written out.

    Args:
        embedded: gives file names with contents; what is no name or no bytes is told as any missing image is.
            None: there are none.

    Raises:
        InputError: there is no folder of images, and none are embedded.
        OSError: of a full disk.
    """
    try:
        return source.head(name, split_by, images=IMAGE_ROOTS)
    except InputError:
        if source.options.images is not None or embedded is None:
            raise
    root = source.folder / "images"
    root.mkdir()
    for file_name, content in embedded():
        place = place_of(str(file_name), root, "")
        if not (isinstance(place, str) and isinstance(content, bytes)):
            continue
        try:
            if not (root / place).exists():
                (root / place).parent.mkdir(parents=True, exist_ok=True)
                (root / place).write_bytes(content)
        except OSError as error:  # a name that no file can have
            if error.errno in FULL:
                raise
    return source.head(name, split_by, images=(str(root),))
