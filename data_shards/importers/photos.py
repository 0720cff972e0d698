"""The image files that lines name: each is opened once, and any fault of it is kept."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

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
    """A usable image file, with its size in the view that its masks are for."""

    number: int
    file_name: str
    height: int
    width: int
    orientation: Orientation


@dataclass(frozen=True)
class _Turned:
    """A file that EXIF turns, while no line that names it has shown which view its masks are for."""

    views: Views
    where: str


class PhotoFiles:
    """Every image that lines name, numbered in the order of first mention.

    Held as arrays of numbers, and one name per image, as there may be millions.

    Args:
        mask_root: the folder that paths of mask files are relative to.
        lines: iterated once here, and again in ``each``.
    """

    def __init__(
        self, image_root: Path, mask_root: Path, lines: Iterable[Line], options: ImportOptions
    ) -> None:
        self._root, self._mask_root, self._options = image_root, mask_root, options
        self._places: list[str] = []
        self._heights, self._widths = array("i"), array("i")
        self._faults: dict[int, Fault] = {}
        self._shown: set[int] = set()
        self._number_of_line, self._split_of_line = array("i"), array("h")
        self._hash_of_line = array("q")
        self.splits: dict[str, int] = {}
        """The splits of all lines, with their numbers."""
        turned: dict[int, _Turned] = {}
        numbers: dict[str, int] = {}
        first: dict[bytes, int] = {}
        for line in lines:
            name = line.row.image
            if (number := numbers.get(name)) is None:
                number = numbers[name] = self._numbered(line, first, turned)
            if number in turned and (said := _said_orientation(turned[number].views, mask_root, line)):
                self._turn(number, turned.pop(number), said)
            self._number_of_line.append(number)
            self._split_of_line.append(self.splits.setdefault(line.split, len(self.splits)))
            self._hash_of_line.append(hash(name))
        for number, one in turned.items():
            self._turn(number, one, options.orientation)

    def __len__(self) -> int:
        return len(self._places)

    def _numbered(self, line: Line, first: dict[bytes, int], turned: dict[int, _Turned]) -> int:
        """The number of the line's image; all names of a file share the number of the first."""
        place = image_place(line.row.image, self._root, line.where)
        if isinstance(place, Fault):
            return self._add(line.row.image, place)
        number = len(self)
        file = same_file(self._root / place)
        if file is not None and (one := first.setdefault(_mark(file), number)) != number:
            return one
        path = self._root / place
        try:
            views = views_of(path)
        except NoImageError:
            return self._add(place, Fault("missing images", f"{line.where}: {path}{in_another_case(path)}"))
        except InputError as error:
            return self._add(place, Fault("images that cannot be read", f"{line.where}: {error}"))
        if views.turned:
            turned[number] = _Turned(views, line.where)
        return self._add(place, views.stored)

    def _add(self, place: str, size: tuple[int, int] | Fault) -> int:
        number = len(self)
        self._places.append(place)
        if isinstance(size, Fault):
            self._faults[number] = size
            size = 0, 0
        self._heights.append(size[0])
        self._widths.append(size[1])
        return number

    def _turn(self, number: int, turned: _Turned, orientation: Orientation | None) -> None:
        if orientation is None:
            path = self._root / self._places[number]
            self._faults[number] = Fault(TURNED, f"{turned.where}: {path}")
        elif orientation == "shown":
            self._shown.add(number)
            self._heights[number], self._widths[number] = turned.views.shown

    def look(self, splits: Iterable[str]) -> None:
        """Check the images that lines of these splits name, according to the options."""
        numbers = self._sound_of(splits)
        rows = (
            ImageRow(
                id=place,
                file_name=self._places[number],
                height=self._heights[number],
                width=self._widths[number],
            )
            for place, number in enumerate(numbers.tolist(), start=1)
        )
        looked = look_at_images(  # sizes are already those of the right view
            self._root, rows, len(numbers), self._options, undecided="stored"
        )
        for place, fault in looked.faults.items():
            self._faults[int(numbers[place - 1])] = fault

    def _sound_of(self, splits: Iterable[str]) -> NDArray[np.int32]:
        """Numbers of the photographs without a fault that lines of these splits name."""
        numbers = np.array(self._number_of_line, np.int32)
        chosen = np.isin(np.array(self._split_of_line), [self.splits[split] for split in splits])
        return np.setdiff1d(numbers[chosen], np.array(list(self._faults), np.int32))

    def each(self, lines: Iterable[Line]) -> Iterator[tuple[Line, str, Photo | Fault]]:
        """The same lines, each with its image's path (the same for all names of a file) and the image.

        Raises:
            InputError: the lines are not the same.
        """
        known = zip(self._number_of_line, self._hash_of_line, strict=True)
        changed = InputError("a file was changed while it was read; import it again")
        for line in lines:
            number, name = next(known, (-1, 0))
            if number < 0 or name != hash(line.row.image):
                raise changed
            yield line, self._places[number], self._faults.get(number) or self._photo(number, line)
        if next(known, None) is not None:
            raise changed

    def _photo(self, number: int, line: Line) -> Photo | Fault:
        photo = self.photo(number)
        return size_fault(photo, line) or photo

    def photo(self, number: int) -> Photo:
        """The photograph of this number, which must have no fault."""
        orientation: Orientation = "shown" if number in self._shown else "stored"
        return Photo(number, self._places[number], self._heights[number], self._widths[number], orientation)


def _mark(file: Hashable) -> bytes:
    return blake2b(repr(file).encode(errors="surrogateescape"), digest_size=16).digest()


def _said_orientation(views: Views, mask_root: Path, line: Line) -> Orientation | None:
    """The view given by the first size, the line's or a mask's, that fits only one; None: undecided."""
    for width, height in [(line.row.width, line.row.height), *_mask_sizes(line, mask_root)]:
        fitting = fitting_views(views, width, height)
        if len(fitting) == 1:
            return fitting[0]
    return None


def _mask_sizes(line: Line, root: Path) -> Iterator[tuple[int, int]]:
    """(width, height) of the masks that have a size: run lengths and files."""
    for one in line.row.meant:
        size = one.mask.get("size") if isinstance(one.mask, dict) else None
        file = mask_file_of(one.mask)
        if file is not None and isinstance(place := place_of(file.file, root, line.where), str):
            with suppress(InputError):  # reported when the mask is read
                height, width = views_of(root / place).stored
                yield width, height
        elif isinstance(size, list) and len(size) == 2:
            yield size[1], size[0]


def size_fault(photo: Photo, line: Line) -> Fault | None:
    """A fault if the line gives another width or height than the image has, else None."""
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
