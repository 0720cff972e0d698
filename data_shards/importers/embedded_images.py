"""Images that are embedded in a data set's own files."""

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
    """The head; images are COCO's own if they exist, else the embedded ones, which are written out.

    Args:
        embedded: returns file names with contents; an entry without a valid name or bytes is skipped, and
            later reported as a missing image. None: there are none.

    Raises:
        InputError: there is no image folder, and no images are embedded.
        OSError: the disk is full.
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
