"""The image files that people's JSON lines name: opened once each, whatever is wrong with them kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from maris_fast.data_shards.importers.annotations import ImageRow
from maris_fast.data_shards.importers.images import TURNED, fitting_views, look_at_images
from maris_fast.data_shards.importers.jsonl_lines import Line
from maris_fast.data_shards.importers.left_out import Fault
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.errors import InputError
from maris_fast.images import NoImageError, Orientation, Views, views_of


@dataclass(frozen=True)
class Photo:
    """An image file that can be used, and its size in the view that its masks are for."""

    file_name: str
    height: int
    width: int
    orientation: Orientation


def open_photos(
    image_root: Path, mask_root: Path, lines: Sequence[Line], splits: Sequence[str], options: ImportOptions
) -> dict[str, Photo | Fault]:
    """Every image by the path that its lines give.

    Args:
        mask_root: paths of masks that are files start from there.
        splits: images of others are not decoded.
    """
    naming: dict[str, list[Line]] = {}
    for line in lines:
        naming.setdefault(line.row.image, []).append(line)
    photos = {
        name: _opened(image_root, mask_root, name, of_it, options.orientation)
        for name, of_it in naming.items()
    }
    rows = [
        ImageRow(id=number, file_name=photo.file_name, height=photo.height, width=photo.width)
        for number, (name, photo) in enumerate(photos.items(), start=1)
        if isinstance(photo, Photo) and any(line.split in splits for line in naming[name])
    ]
    names = dict(enumerate(photos, start=1))
    looked = look_at_images(image_root, rows, options, undecided="stored")  # of the right size by now
    for number, fault in looked.faults.items():
        photos[names[number]] = fault
    return photos


def _opened(
    image_root: Path, mask_root: Path, name: str, lines: Sequence[Line], undecided: Orientation | None
) -> Photo | Fault:
    place, where = Path(name), lines[0].where
    if place.is_absolute() or ".." in place.parts:
        return Fault(
            "image paths that leave the image folder; write them relative to it, or name the folder with "
            "--images",
            f"{where}: {name}",
        )
    try:
        views = views_of(image_root / place)
    except NoImageError:
        return Fault("missing images", f"{where}: {image_root / place}")
    except InputError as error:
        return Fault("images that cannot be read", f"{where}: {error}")
    orientation: Orientation | None = "stored"
    if views.turned:
        orientation = _said_orientation(views, mask_root, lines) or undecided
    if orientation is None:
        return Fault(TURNED, f"{where}: {image_root / place}")
    return Photo(place.as_posix(), *views.of(orientation), orientation)


def _said_orientation(views: Views, mask_root: Path, lines: Sequence[Line]) -> Orientation | None:
    """By the first width and height that fit one view alone: a line's own, or a mask's."""
    for line in lines:
        for width, height in [(line.row.width, line.row.height), *_mask_sizes(line, mask_root)]:
            fitting = fitting_views(views, width, height)
            if len(fitting) == 1:
                return fitting[0]
    return None


def _mask_sizes(line: Line, root: Path) -> Iterator[tuple[int, int]]:
    """(width, height) of masks that have one: run lengths and files."""
    for one in line.row.meant:
        size = one.mask.get("size") if isinstance(one.mask, dict) else None
        if isinstance(size, list) and len(size) == 2:
            yield size[1], size[0]
        elif isinstance(one.mask, str):
            with suppress(InputError):  # told when the mask is read
                height, width = views_of(root / one.mask).stored
                yield width, height


def size_fault(photo: Photo, line: Line) -> Fault | None:
    """Where the line gives another width or height than the image has."""
    for what, said, real in (
        ("width", line.row.width, photo.width),
        ("height", line.row.height, photo.height),
    ):
        if said is not None and said != real:
            return Fault(
                "images of another size than their line says",
                f"{line.where}: {what} {said}, {line.row.image} has {real}",
            )
    return None
