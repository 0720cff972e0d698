"""The image files of a data set: in a folder, or below an address."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from PIL.Image import Image

from maris_fast.data_shards.cache.place import Files, files_of, read_start, size_of
from maris_fast.data_shards.records import Frozen, ImageRecord
from maris_fast.errors import InputError
from maris_fast.images import NoImageError, Orientation, Upload, check_image, load_image
from maris_fast.system.threads import mapped

HEAD_BYTES = 1 << 17
"""Bytes read first of a file at an address; most formats have the image's size in them."""
PATIENCE = 240.0
"""Seconds of patience with a server; requests are repeated for half of them, so that a shorter outage loses
no encoded shard."""
LOOKING = 16
"""Threads that check images, and mostly wait for a disk or a server."""


class ImageFile(Frozen):
    """What a record says of its image file."""

    image: str
    height: int
    width: int
    orientation: Orientation

    @classmethod
    def of(cls, record: ImageRecord) -> ImageFile:
        return cls(**{name: getattr(record, name) for name in cls.model_fields})


class Photographs:
    """Opens the images of records; thread-safe.

    Args:
        place: ``DatasetInfo.image_root``, a folder or an address.

    Raises:
        ArgumentError, ConfigError: for an address, see ``files_of``.
    """

    def __init__(self, place: str) -> None:
        self._files: Files = files_of(place, PATIENCE)

    def path(self, record: ImageRecord | ImageFile) -> Path | None:
        """The local file; None if it is at an address."""
        return self._files / record.image if isinstance(self._files, Path) else None

    def check(self, record: ImageRecord | ImageFile) -> None:
        """Check the head of the record's image; at an address, the whole file is fetched only if needed.

        Raises:
            InputError: as ``images.check_image``.
            StoreError: the server fails.
        """
        size = record.height, record.width
        if (path := self.path(record)) is not None:
            check_image(path, size, record.orientation)
            return
        head = self._fetched(record, HEAD_BYTES)
        try:
            check_image(head, size, record.orientation)
        except InputError:
            if len(head.content) < HEAD_BYTES:
                raise
            check_image(self._fetched(record), size, record.orientation)

    def fault(self, record: ImageRecord | ImageFile) -> InputError | None:
        """What ``check`` finds wrong with the image.

        Raises:
            StoreError: the server fails.
        """
        try:
            self.check(record)
        except InputError as error:
            return error
        return None

    def any_usable(self, files: Iterable[ImageFile]) -> bool:
        """Whether ``check`` finds nothing wrong with one of them.

        Raises:
            StoreError: the server fails.
        """
        return any(error is None for _, error in mapped(self.fault, files, LOOKING))

    def load(self, record: ImageRecord) -> Image:
        """The record's image, RGB, in its orientation; raises as ``check`` and ``images.load_image``."""
        file = self.path(record) or self._fetched(record)
        return load_image(file, (record.height, record.width), record.orientation)

    def _fetched(self, record: ImageRecord | ImageFile, most: int | None = None) -> Upload:
        try:
            count = most or size_of(self._files, record.image)
            return Upload(read_start(self._files, record.image, count), str(self._files / record.image))
        except FileNotFoundError as error:
            raise NoImageError(f"no image {error}") from error
