"""People's own data as JSON lines: an expression, or an image with all of its expressions, a line.

``docs/datasets.md`` has the format with an example.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from maris_fast.data_shards.importers.annotations import ImageRow, first_of, read_bytes
from maris_fast.data_shards.importers.coco_images import coco_id_of
from maris_fast.data_shards.importers.images import check_images as check_image_files
from maris_fast.data_shards.importers.images import find_image_root
from maris_fast.data_shards.importers.jsonl_lines import (
    ExpressionLine,
    ImageLine,
    ImagePart,
    ObjectRow,
    parsed,
)
from maris_fast.data_shards.importers.masks import empty_mask, mask_of_pixels, union_mask
from maris_fast.data_shards.importers.problems import Problems
from maris_fast.data_shards.importers.report import ImportReport
from maris_fast.data_shards.importers.splits import chosen_splits, files_by_split
from maris_fast.data_shards.importers.writing import write_head, write_split
from maris_fast.data_shards.new_folder import new_folder
from maris_fast.data_shards.records import DatasetInfo, Expression, ImageRecord, Rle, Target
from maris_fast.errors import InputError

UPRIGHT, ORIENTATION = 1, 0x0112
SPLIT = "train"
"""Of lines that name none."""


@dataclass
class _Photo:
    """An image file."""

    row: ImageRow
    coco_id: int | None


@dataclass
class _Group:
    """What a split says about an image."""

    photo: _Photo
    targets: list[Target] = field(default_factory=list)
    expressions: list[Expression] = field(default_factory=list)
    place: dict[tuple[str, str], int] = field(default_factory=dict)
    """Index into ``targets`` by mask and category."""


def import_jsonl(
    root: Path,
    dataset: str,
    out: Path,
    *,
    splits: Sequence[str] | None = None,
    images: Path | None = None,
    check_images: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> ImportReport:
    """Import JSON lines from ``root/<dataset>`` to the folder ``out``.

    Images are numbered from 1 in the order of their first line, refs and sentences in the order of the lines.
    Expressions of one image with the same mask and category mean the same target, on whichever lines they
    stand. A mask that is ``null`` means nothing in the image.

    Args:
        root: images and masks that are files are relative to it.
        dataset: name of a file; with ``{split}`` in it, one file a split.
        images: folder that image paths are relative to, where it is another than ``root``.
        out, splits, check_images, progress: as ``import_refcoco``'s.

    Raises:
        InputError: as ``import_refcoco``.
    """
    root = Path(root).absolute()
    out = Path(out).absolute()
    with new_folder(out) as folder:
        files = files_by_split(root, dataset)
        image_root = find_image_root(root, images, (".",)).resolve()
        problems = Problems(f"{dataset} below {root}")
        reading = _Reading(root, image_root, problems)
        for split, path in files:
            reading.read(path, split)
        chosen = chosen_splits(reading.splits, splits, root / dataset) if reading.splits else []
        if not reading.lines:
            raise InputError(f"{root / dataset} holds no lines")
        rows = reading.images_of(chosen)
        check_image_files(image_root, rows, problems, decode=check_images, progress=progress)
        problems.raise_if_any()
        info = DatasetInfo(
            name=Path(dataset).name.removesuffix(".jsonl").replace("{split}", "").strip("._-") or root.name,
            split_by="own",
            image_root=str(image_root),
            source=str(root / dataset),
            splits={split: write_split(folder, split, reading.records(split)) for split in chosen},
        )
        write_head(folder, info)
    return ImportReport(out, info)


class _Reading:
    """Lines to image groups; what cannot be used is added to ``problems`` and left out."""

    def __init__(self, root: Path, image_root: Path, problems: Problems) -> None:
        self._root, self._image_root, self._problems = root, image_root, problems
        self._photos: dict[str, _Photo | None] = {}
        self._groups: dict[str, dict[int, _Group]] = {}
        self._refs = self._sentences = self.lines = 0

    @property
    def splits(self) -> list[str]:
        return list(self._groups)

    def images_of(self, splits: Sequence[str]) -> list[ImageRow]:
        """Images of these splits, each once."""
        rows = {number: group.photo.row for split in splits for number, group in self._groups[split].items()}
        return list(rows.values())

    def records(self, split: str) -> list[ImageRecord]:
        """One an image, in the order of image_id."""
        return [
            ImageRecord(
                image_id=number,
                image=group.photo.row.file_name,
                height=group.photo.row.height,
                width=group.photo.row.width,
                coco_id=group.photo.coco_id,
                targets=tuple(group.targets),
                expressions=tuple(group.expressions),
            )
            for number, group in sorted(self._groups[split].items())
        ]

    def read(self, path: Path, split: str | None) -> None:
        """All lines of a file; ``split`` is what its name says."""
        for number, line in enumerate(read_bytes(path).splitlines(), start=1):
            if not line.strip():
                continue
            self.lines += 1
            where = f"{path.name}:{number}"
            try:
                row = parsed(line)
            except (ValueError, RecursionError) as error:
                why = first_of(error) if isinstance(error, ValidationError) else str(error)
                self._problems.add("lines that are not as docs/datasets.md says", f"{where}: {why}")
                continue
            if split is not None and row.split not in (None, split):
                self._problems.add(
                    "lines of another split than their file", f"{where}: {row.split!r} in a file of {split!r}"
                )
                continue
            self._add(row, split or row.split or SPLIT, where)

    def _add(self, row: ExpressionLine | ImageLine, split: str, where: str) -> None:
        photo = self._photo(row, where)
        if not row.meant:
            self._problems.add("images without an object", where)
        for one in row.meant:
            texts = [text.strip() for text in one.texts]
            if not all(texts):
                self._problems.add("empty sentences", where)
            elif photo is not None:
                self._add_object(one, texts, photo, split, where)

    def _add_object(self, one: ObjectRow, texts: list[str], photo: _Photo, split: str, where: str) -> None:
        try:
            mask, area = self._mask(one.mask, photo.row)
        except (ValueError, TypeError) as error:
            self._problems.add("objects without a usable mask", f"{where}: {error}")
            return
        group = self._groups.setdefault(split, {}).setdefault(photo.row.id, _Group(photo))
        same = (mask.counts, one.category)
        if same not in group.place:
            self._refs += 1
            group.place[same] = len(group.targets)
            ann_ids = (self._refs,) if area else ()
            group.targets.append(
                Target(ref_id=self._refs, ann_ids=ann_ids, category=one.category, mask=mask, area=area)
            )
        for text in texts:
            self._sentences += 1
            group.expressions.append(
                Expression(sent_id=self._sentences, target=group.place[same], text=text, kind=one.kind)
            )

    def _photo(self, row: ImagePart, where: str) -> _Photo | None:
        """The image, opened at its first line; None, and a problem, if it cannot be used."""
        name = row.image
        if name not in self._photos:
            self._photos[name] = self._opened(row, where)
        photo = self._photos[name]
        if photo is None:
            return None
        for what, said, real in (
            ("width", row.width, photo.row.width),
            ("height", row.height, photo.row.height),
        ):
            if said is not None and said != real:
                self._problems.add(
                    "images of another size than their line says",
                    f"{where}: {what} {said}, {name} has {real}",
                )
        return photo

    def _opened(self, row: ImagePart, where: str) -> _Photo | None:
        place = Path(row.image)
        if place.is_absolute() or ".." in place.parts:
            self._problems.add(
                "image paths that leave the image folder; write them relative to it, or name the folder with "
                "--images",
                f"{where}: {row.image}",
            )
            return None
        try:
            with Image.open(self._image_root / place) as image:
                width, height = image.size
                turned = image.getexif().get(ORIENTATION, UPRIGHT) != UPRIGHT
        except FileNotFoundError:
            self._problems.add("missing images", f"{where}: {self._image_root / place}")
            return None
        except Exception as error:  # decoders raise OSError, SyntaxError and others on damaged files
            self._problems.add("images that cannot be read", f"{where}: {self._image_root / place}: {error}")
            return None
        if turned and row.width is None and row.height is None:
            self._problems.add(
                "images that EXIF turns, so that nobody knows which way round the masks are; save them "
                "upright, or give width and height of the raw pixels if the masks are for those",
                f"{where}: {self._image_root / place}",
            )
            return None
        number = 1 + len(self._photos)
        found = ImageRow(id=number, file_name=place.as_posix(), height=height, width=width)
        return _Photo(found, coco_id_of(place.name))

    def _mask(self, said: Any, image: ImageRow) -> tuple[Rle, int]:
        """
        Raises:
            ValueError, TypeError: it is nothing that can be drawn.
        """
        if said is None:
            return empty_mask(image.height, image.width), 0
        if not isinstance(said, str):
            return union_mask(said, image.height, image.width)
        mask, area = mask_of_pixels(_png(self._root / said, image))
        if not area:
            raise ValueError(f"{said} has no pixel; a sentence that means nothing has the mask null")
        return mask, area


def _png(path: Path, image: ImageRow) -> NDArray[Any]:
    """Pixels [height, width], not 0 inside the mask."""
    try:
        with Image.open(path) as picture:
            if picture.format != "PNG":
                raise ValueError(
                    f"{path} is {picture.format}; a mask is saved as PNG, which keeps its pixels"
                )
            if picture.size != (image.width, image.height):
                raise ValueError(
                    f"{path} is {picture.width} x {picture.height}, its image {image.width} x {image.height}"
                )
            if len(picture.getbands()) != 1:
                raise ValueError(f"{path} has the channels {', '.join(picture.getbands())}; needed is one")
            return np.asarray(picture)
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}") from error
    except (OSError, SyntaxError) as error:
        raise ValueError(f"{path} cannot be read: {error}") from error
