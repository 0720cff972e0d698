"""The image files that people's JSON lines name: opened once each, whatever is wrong with them kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from maris_fast.data_shards.importers.annotations import ImageRow
from maris_fast.data_shards.importers.images import image_faults
from maris_fast.data_shards.importers.jsonl_lines import Line
from maris_fast.data_shards.importers.left_out import Fault
from maris_fast.data_shards.importers.options import ImportOptions

UPRIGHT, ORIENTATION = 1, 0x0112


@dataclass(frozen=True)
class Photo:
    """An image file that can be used."""

    file_name: str
    height: int
    width: int


def open_photos(
    image_root: Path, lines: Sequence[Line], splits: Sequence[str], options: ImportOptions
) -> dict[str, Photo | Fault]:
    """Every image by the path that its lines give.

    Args:
        splits: images of others are not decoded.
    """
    naming: dict[str, list[Line]] = {}
    for line in lines:
        naming.setdefault(line.row.image, []).append(line)
    photos = {name: _opened(image_root, name, of_it) for name, of_it in naming.items()}
    rows = [
        ImageRow(id=number, file_name=photo.file_name, height=photo.height, width=photo.width)
        for number, (name, photo) in enumerate(photos.items(), start=1)
        if isinstance(photo, Photo) and any(line.split in splits for line in naming[name])
    ]
    names = dict(enumerate(photos, start=1))
    for number, fault in image_faults(image_root, rows, options).items():
        photos[names[number]] = fault
    return photos


def _opened(image_root: Path, name: str, lines: Sequence[Line]) -> Photo | Fault:
    place, where = Path(name), lines[0].where
    if place.is_absolute() or ".." in place.parts:
        return Fault(
            "image paths that leave the image folder; write them relative to it, or name the folder with "
            "--images",
            f"{where}: {name}",
        )
    try:
        with Image.open(image_root / place) as image:
            width, height = image.size
            turned = image.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT
    except FileNotFoundError:
        return Fault("missing images", f"{where}: {image_root / place}")
    except Exception as error:  # decoders raise OSError, SyntaxError and others on damaged files
        return Fault("images that cannot be read", f"{where}: {image_root / place}: {error}")
    photo = Photo(place.as_posix(), height, width)
    if turned and not any(_says_the_size_of(photo, line) for line in lines):
        return Fault(
            "images that EXIF turns, so that nobody knows which way round the masks are; save them "
            "upright, or give width and height of the raw pixels if the masks are for those",
            f"{where}: {image_root / place}",
        )
    return photo


def _says_the_size_of(photo: Photo, line: Line) -> bool:
    said = (line.row.width, line.row.height)
    return said != (None, None) and size_fault(photo, line) is None


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
