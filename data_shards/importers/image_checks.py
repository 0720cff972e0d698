"""Checks that images exist, are not truncated and have the annotated size."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from maris_fast.data_shards.importers.annotations import ImageRow
from maris_fast.data_shards.importers.coco_images import cocos_own_file
from maris_fast.data_shards.importers.left_out import Fault
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.paths import in_another_case
from maris_fast.data_shards.records import ImageRecord
from maris_fast.errors import InputError
from maris_fast.images import MOST_PIXELS, NoImageError, Orientation, Views, views_of
from maris_fast.system.threads import mapped

IMAGE_ROOTS = (
    "images/mscoco/images/train2014",
    "images/train2014",
    "images/train2017",
    "train2014",
    "train2017",
)
"""Folders that are searched for COCO's images."""
THREADS = 4


def find_image_root(root: Path, named: Path | None = None, places: Sequence[str] = IMAGE_ROOTS) -> Path:
    """The image folder: ``named``, which may be relative to ``root``, else the first existing of ``places``.

    Raises:
        InputError: there is no such folder.
    """
    for place in places if named is None else (named,):
        if (root / place).is_dir():
            return root / place
    if named is not None:
        raise InputError(f"no folder {root / named}; `images` names the folder that image paths start from")
    raise InputError(
        f"no images below {root}: they are looked for at {' and '.join(places)}; put the folder, or a "
        "symbolic link to it, there, or name it with `images`"
    )


NARROW = "images so narrow that nothing is left of their short side where SAM reads them; crop them"
TURNED = (
    "images with an EXIF rotation, whose masks may have either orientation; set `orientation` to stored "
    "(pixels as in the file) or to shown (after EXIF)"
)
"""Values of ``Fault.kind``."""

SAM_PIXELS = 1024
"""Longest side in pixels. A cache with another ``encoders.sam.image_size`` repeats the check."""
_NARROW = 512
"""Aspect ratio far below the limit; up to it the geometry, which takes seconds to import, is not needed."""


@dataclass
class LookedAt:
    """Results of the image checks, by image id."""

    faults: dict[int, Fault] = field(default_factory=dict)
    """For images that are missing, broken, too narrow, of another size than annotated, or of unknown view."""
    shown: set[int] = field(default_factory=set)
    """Ids of images that are annotated as EXIF turns them."""

    def oriented(self, records: Sequence[ImageRecord]) -> list[ImageRecord]:
        """The records with ``orientation`` set to the view that each is annotated in."""
        return [
            record.model_copy(update={"orientation": "shown"}) if record.image_id in self.shown else record
            for record in records
        ]


def look_at_images(
    image_root: Path,
    images: Iterable[ImageRow],
    total: int,
    options: ImportOptions,
    *,
    undecided: Orientation | None,
) -> LookedAt:
    """Check every image and return the results by image id.

    Args:
        total: the number of images.
        options: ``check_images``: read each file to its end; else only its header, which a truncated file
            still has. ``progress`` is called with the number of images done and the total.
        undecided: the view to assume for an image whose annotated size fits both; None: report a fault.
    """

    def look(image: ImageRow) -> Orientation | Fault:
        return _look(image_root / image.file_name, image, options.check_images, undecided)

    looked = LookedAt()
    for done, (image, found) in enumerate(mapped(look, images, THREADS), start=1):
        if isinstance(found, Fault):
            looked.faults[image.id] = found
        elif found == "shown":
            looked.shown.add(image.id)
        if options.progress is not None:
            options.progress(done, total)
    return looked


def size_fault(annotated: ImageRow) -> Fault | None:
    """A fault if masks of the annotated size cannot be drawn, else None."""
    height, width = annotated.height, annotated.width
    if min(height, width) > 0 and height * width <= MOST_PIXELS:
        return None
    return Fault(
        "images annotated with a size that no image has",
        f"image {annotated.id} ({annotated.file_name}): {width} x {height}",
    )


def narrow_fault(height: int, width: int, where: str) -> Fault | None:
    """A fault if the image is too narrow for SAM's grid, else None.

    Args:
        where: file and id, for the fault.
    """
    if max(height, width) <= _NARROW * min(height, width):
        return None
    from maris_fast.geometry import ImageGeometry

    try:
        ImageGeometry.of(height, width, SAM_PIXELS)
    except InputError as error:
        return Fault(NARROW, f"{where}: {error}")
    return None


def fitting_views(views: Views, width: int | None, height: int | None) -> list[Orientation]:
    """Views of a turned image that have this size; None: any size."""
    orientations: tuple[Orientation, ...] = ("stored", "shown")
    return [
        one
        for one in orientations
        if height in (None, views.of(one)[0]) and width in (None, views.of(one)[1])
    ]


def _look(
    path: Path, annotated: ImageRow, decode: bool, undecided: Orientation | None
) -> Orientation | Fault:
    name = f"image {annotated.id}: {path}"
    try:
        views = views_of(path, whole=decode)
    except NoImageError:
        return Fault("missing images; copy them into the image folder", name + in_another_case(path))
    except InputError as error:
        return Fault(
            "images that cannot be read to their end; copy them again", f"image {annotated.id}: {error}"
        )
    if fault := narrow_fault(*views.stored, name):
        return fault
    fitting = fitting_views(views, annotated.width, annotated.height)
    if not fitting:
        whose = "COCO's original files" if cocos_own_file(annotated.file_name) else "the annotated files"
        return Fault(
            f"images of another size than annotated (width x height); use {whose}",
            f"{name} is {views.stored[1]} x {views.stored[0]}, "
            f"annotated {annotated.width} x {annotated.height}",
        )
    if not views.turned:
        return "stored"
    if len(fitting) == 1:
        return fitting[0]
    return undecided or Fault(TURNED, name)
