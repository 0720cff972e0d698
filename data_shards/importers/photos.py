"""The image files that lines name: opened once each, whatever is wrong with them kept."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from maris_fast.data_shards.importers.annotations import ImageRow
from maris_fast.data_shards.importers.image_checks import TURNED, fitting_views, look_at_images
from maris_fast.data_shards.importers.left_out import Fault
from maris_fast.data_shards.importers.lines import Line, mask_file_of
from maris_fast.data_shards.importers.options import ImportOptions
from maris_fast.data_shards.importers.paths import image_place, in_another_case, place_of, same_file
from maris_fast.errors import InputError
from maris_fast.images import NoImageError, Orientation, Views, views_of


@dataclass(frozen=True)
class Photo:
    """An image file that can be used, and its size in the view that its masks are for."""

    file_name: str
    height: int
    width: int
    orientation: Orientation


class PhotoFiles:
    """Every image that lines name.

    Args:
        mask_root: paths of masks that are files start from there.
        splits: images of others are not decoded.
    """

    def __init__(
        self,
        image_root: Path,
        mask_root: Path,
        lines: Sequence[Line],
        splits: Sequence[str],
        options: ImportOptions,
    ) -> None:
        self._root, self._mask_root, self._options = image_root, mask_root, options
        self._places = _one_a_file(image_root, lines)
        naming: dict[str, list[Line]] = {}
        for line in lines:
            if isinstance(place := self._places[line.row.image], str):
                naming.setdefault(place, []).append(line)
        self._photos = {place: self._opened(place, of_it) for place, of_it in naming.items()}
        decoded = [
            photo
            for place, photo in self._photos.items()
            if isinstance(photo, Photo) and any(line.split in splits for line in naming[place])
        ]
        rows = [
            ImageRow(id=number, file_name=photo.file_name, height=photo.height, width=photo.width)
            for number, photo in enumerate(decoded, start=1)
        ]
        looked = look_at_images(image_root, rows, options, undecided="stored")  # of the right size by now
        for number, fault in looked.faults.items():
            self._photos[decoded[number - 1].file_name] = fault

    def place(self, line: Line) -> str:
        """Where the line's image lies, the same for all names of a file; as the line says it if nowhere."""
        place = self._places[line.row.image]
        return line.row.image if isinstance(place, Fault) else place

    def of(self, line: Line) -> Photo | Fault:
        place = self._places[line.row.image]
        if isinstance(place, Fault):
            return place
        photo = self._photos[place]
        return photo if isinstance(photo, Fault) else size_fault(photo, line) or photo

    def _opened(self, place: str, lines: Sequence[Line]) -> Photo | Fault:
        path, where = self._root / place, lines[0].where
        try:
            views = views_of(path)
        except NoImageError:
            return Fault("missing images", f"{where}: {path}{in_another_case(path)}")
        except InputError as error:
            return Fault("images that cannot be read", f"{where}: {error}")
        orientation: Orientation | None = "stored"
        if views.turned:
            orientation = _said_orientation(views, self._mask_root, lines) or self._options.orientation
        if orientation is None:
            return Fault(TURNED, f"{where}: {path}")
        return Photo(place, *views.of(orientation), orientation)


def _one_a_file(root: Path, lines: Sequence[Line]) -> dict[str, str | Fault]:
    """By the path that a line gives; of several names of a file the first."""
    places: dict[str, str | Fault] = {}
    first: dict[Hashable, str] = {}
    for line in lines:
        if line.row.image not in places:
            place = image_place(line.row.image, root, line.where)
            file = same_file(root / place) if isinstance(place, str) else None
            places[line.row.image] = place if file is None else first.setdefault(file, str(place))
    return places


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
        file = mask_file_of(one.mask)
        if file is not None and isinstance(place := place_of(file.file, root, line.where), str):
            with suppress(InputError):  # told when the mask is read
                height, width = views_of(root / place).stored
                yield width, height
        elif isinstance(size, list) and len(size) == 2:
            yield size[1], size[0]


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
