"""A shard's sidecar index: the position of each member's bytes, and all that planning an epoch needs.

Numeric columns, one row per image or expression, in an ``.npz`` that loads without pickle: an index of
100,000 images is read in a fraction of a second, and no tar header is parsed to read a sample.
"""

from __future__ import annotations

import io
import math
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from maris_fast.config import StoreAddress
from maris_fast.data_shards.records import ImageRecord
from maris_fast.errors import InputError
from maris_fast.geometry import ImageGeometry


def object_of(record: ImageRecord, target: int) -> int:
    """A number for what a target refers to, equal for targets of an image that refer to the same objects.

    The annotation's id for a single object; a negative number for several or none.
    """
    ann_ids = record.targets[target].ann_ids
    if len(ann_ids) == 1:
        return ann_ids[0]
    return -1 - next(place for place, each in enumerate(record.targets) if set(each.ann_ids) == set(ann_ids))


class Geometries(NamedTuple):
    """Columns of ``ShardIndex.geometry``, [I] each; the fields of ``ImageGeometry``."""

    height: NDArray[np.int32]
    width: NDArray[np.int32]
    h_px: NDArray[np.int32]
    w_px: NDArray[np.int32]
    h: NDArray[np.int32]
    w: NDArray[np.int32]


@dataclass(frozen=True)
class ShardIndex:
    """Columns over the I images, M members and E expressions of a shard."""

    image_id: NDArray[np.int64]
    """[I]; as 12 digits, the key in the shard."""
    geometry: NDArray[np.int32]
    """[I, 6]: the columns of ``Geometries``."""
    targets: NDArray[np.int32]
    """[I]: number of masks of the image, T."""
    offset: NDArray[np.int64]
    """[I, M]: where a member's payload starts in the shard; for an array its data, after the header."""
    size: NDArray[np.int64]
    """[I, M]: bytes of the payload."""
    crc: NDArray[np.uint32]
    """[I, M]: CRC-32C of the payload."""
    expression_offset: NDArray[np.int64]
    """[I + 1]: offsets of each image's rows in the columns below."""
    words: NDArray[np.int32]
    """[E]: number of words of each expression, L_t."""
    target: NDArray[np.int32]
    """[E]: which of the image's masks it refers to."""
    object: NDArray[np.int64]
    """[E]: ``object_of`` that mask; two targets may be the same object."""

    @property
    def images(self) -> int:
        return len(self.image_id)

    @property
    def geometries(self) -> Geometries:
        return Geometries(*self.geometry.T)

    @property
    def grids(self) -> NDArray[np.int32]:
        """[I, 2]: tokens (h, w)."""
        return np.stack([self.geometries.h, self.geometries.w], axis=1)

    def geometry_of(self, image: int) -> ImageGeometry:
        return ImageGeometry(*self.geometry[image].tolist())

    def to_bytes(self) -> bytes:
        """The file's content; the same columns give the same bytes."""
        stream = io.BytesIO()
        np.savez(stream, **{field.name: getattr(self, field.name) for field in fields(self)})
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes, path: Path | StoreAddress) -> ShardIndex:
        """The columns in a file's content, without using more memory than it; ``path`` is for messages.

        Raises:
            InputError: not an index, a column is missing or has another type, or columns are inconsistent.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(content)) as columns:
                index = cls(**{field.name: _column(columns, field.name) for field in fields(cls)})
            index._require_consistent()
        except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, RuntimeError) as error:
            # RuntimeError: zipfile's for encrypted files and for formats that it does not read.
            raise InputError(f"{path} is not a shard index; write the cache again ({error})") from error
        return index

    def _require_consistent(self) -> None:
        """
        Raises:
            ValueError: types or shapes are not those of an index, or expressions do not match the images.
        """
        members = self.offset.shape[1] if self.offset.ndim == 2 else 0
        for name, (dtype, shape) in _layout(len(self.image_id), members, len(self.words)).items():
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != shape:
                raise ValueError(f"{name} is {column.dtype} {column.shape}, expected {dtype} {shape}")
        ends = self.expression_offset
        if ends[0] != 0 or ends[-1] != len(self.words) or (np.diff(ends) < 1).any():
            raise ValueError("its expressions do not follow its images in order")

    @classmethod
    def zeros(cls, images: int, members: int, expressions: int) -> ShardIndex:
        """Columns of the right types and shapes, filled with zeros."""
        layout = _layout(images, members, expressions)
        return cls(**{name: np.zeros(shape, dtype) for name, (dtype, shape) in layout.items()})

    @classmethod
    def concatenate(cls, parts: Sequence[ShardIndex]) -> ShardIndex:
        """One index over several shards' images; offsets stay relative to each shard."""
        joined = {
            field.name: np.concatenate([getattr(part, field.name) for part in parts])
            for field in fields(cls)
            if field.name != "expression_offset"
        }
        counts = np.concatenate([np.diff(part.expression_offset) for part in parts])
        return cls(**joined, expression_offset=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64))


def _layout(images: int, members: int, expressions: int) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Type and shape of each column."""
    layout: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
        "image_id": (np.int64, (images,)),
        "geometry": (np.int32, (images, 6)),
        "targets": (np.int32, (images,)),
        "offset": (np.int64, (images, members)),
        "size": (np.int64, (images, members)),
        "crc": (np.uint32, (images, members)),
        "expression_offset": (np.int64, (images + 1,)),
        "words": (np.int32, (expressions,)),
        "target": (np.int32, (expressions,)),
        "object": (np.int64, (expressions,)),
    }
    return {name: (np.dtype(dtype), shape) for name, (dtype, shape) in layout.items()}


def most_bytes(images: int, members: int, expressions: int) -> int:
    """Upper bound on the file size of an index with this many rows."""
    columns = _layout(images, members, expressions).values()
    return sum(math.prod(shape) * dtype.itemsize + _BYTES_ABOUT_A_COLUMN for dtype, shape in columns)


_BYTES_ABOUT_A_COLUMN = 1024
"""Generous allowance for the headers of zip and numpy."""

# numpy evaluates array headers as Python, which for a thousand indexes takes longer than everything else.
_HEADER = re.compile(
    rb"\x93NUMPY\x01\x00(..)\{'descr': '(<[iu][1248])', 'fortran_order': False, "
    rb"'shape': \((\d+),(?: (\d+))?\), \}",
    re.DOTALL,
)


def _column(columns: zipfile.ZipFile, name: str) -> NDArray[Any]:
    """Read an array as ``np.savez`` writes it; a compressed one may be a thousand times its file's size."""
    place = columns.getinfo(f"{name}.npy")
    if place.compress_type != zipfile.ZIP_STORED:
        raise ValueError(f"{name} is packed, which no writer of this program does")
    content = columns.read(place)
    header = _HEADER.match(content)
    if header is None:
        raise ValueError(f"{name} is not a plain array of integers")
    length, dtype, *sizes = header.groups()
    start = 10 + int.from_bytes(length, "little")
    return np.frombuffer(content, dtype.decode(), offset=start).reshape([int(size) for size in sizes if size])
