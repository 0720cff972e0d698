"""Options of every importer, besides the data set."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maris_fast.data_shards.importers.mask_values import MaskValues
from maris_fast.errors import ArgumentError
from maris_fast.images import Orientation


@dataclass(frozen=True)
class ImportOptions:
    """Options of an import.

    Attributes:
        splits: the splits to import; empty: all.
        images: the image folder, absolute or below the root, if it is not the usual one.
        check_images: decode every image, which finds truncated files; sizes are checked in any case.
        orientation: of images that EXIF turns and whose annotated size fits both views; None: such images of
            users' own data cannot be used, those of published data sets are taken as stored.
        mask_values: which values of mask PNGs are inside, see ``mask_values``; None: inferred.
        leave_out_bad: leave out, count and list rows that cannot be used, see ``left_out``; else the whole
            import is refused.
        category_sentences: use a category's name as the sentence of all its objects in an image that have
            none, as in exports of annotation tools.
        hold_out: share of the train images, over 0 and below 1, that become the split ``val``, for data
            without one. Their paths and ``seed`` determine which.
        progress: called with the number of images checked and the total.

    Raises:
        ArgumentError: ``hold_out`` is out of range.
    """

    splits: Sequence[str] = ()
    images: Path | None = None
    check_images: bool = True
    orientation: Orientation | None = None
    mask_values: MaskValues | None = None
    leave_out_bad: bool = False
    category_sentences: bool = False
    hold_out: float | None = None
    seed: int = 0
    progress: Callable[[int, int], None] | None = None

    def __post_init__(self) -> None:
        if self.hold_out is not None and not 0 < self.hold_out < 1:
            raise ArgumentError(f"`hold_out` is {self.hold_out}; expected a share over 0 and below 1, as 0.1")


DEFAULT = ImportOptions()
