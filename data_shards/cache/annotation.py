"""The ``json`` member of an image group: everything known about an image without encoding it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from pydantic import model_validator

from maris_fast.data_shards.cache.index import ShardIndex
from maris_fast.data_shards.records import Frozen, ImageRecord
from maris_fast.errors import InputError, first_of
from maris_fast.geometry import ImageGeometry

if TYPE_CHECKING:
    from maris_fast.encoders import EncodersProvenance, TextFeatures, TokenisedText


class Annotation(Frozen):
    """Created by ``of``, written by ``to_bytes`` and read by ``model_validate_json`` in all of the code."""

    record: ImageRecord
    geometry: ImageGeometry
    tokens: tuple[tuple[str, ...], ...]
    """Readable form of each expression's L_t words."""
    truncated: tuple[bool, ...]
    """Whether each expression was cut to ``encoders.text.max_words``."""
    word_offsets: tuple[int, ...]
    """Offsets of each expression's rows in ``words.npy``, [E + 1]."""
    random_encoders: tuple[str, ...]

    @model_validator(mode="after")
    def _consistent(self) -> Annotation:
        size = self.record.height, self.record.width
        if size != (self.geometry.height, self.geometry.width):
            raise ValueError(f"the record is of an image {size}, the geometry is {self.geometry}")
        expressions = len(self.record.expressions)
        if len(self.tokens) != expressions:
            raise ValueError(f"it has {expressions} expressions and the words of {len(self.tokens)}")
        return self

    @classmethod
    def of(
        cls,
        record: ImageRecord,
        geometry: ImageGeometry,
        expressions: Sequence[TokenisedText | TextFeatures],
        encoders: EncodersProvenance,
    ) -> Annotation:
        """Create the annotation of an image whose expressions are tokenised."""
        lengths = [len(expression.tokens) for expression in expressions]
        return cls(
            record=record,
            geometry=geometry,
            tokens=tuple(expression.tokens for expression in expressions),
            truncated=tuple(expression.truncated for expression in expressions),
            word_offsets=(0, *np.cumsum(lengths).tolist()),
            random_encoders=tuple(encoders.random),
        )

    @classmethod
    def read(cls, content: bytes | bytearray, index: ShardIndex, image: int, where: str) -> Annotation:
        """Read the annotation of an image of the index; ``where`` names its source in messages.

        Raises:
            InputError: it is not what the cache's writer writes, or belongs to another image.
        """
        try:
            annotation = cls.model_validate_json(content)
            if annotation.geometry != index.geometry_of(image):
                raise ValueError(f"it is of {annotation.geometry}, the index says {index.geometry_of(image)}")
            first, end = index.expression_offset[image : image + 2].tolist()
            written, indexed = len(annotation.tokens), end - first
            if written != indexed:
                raise ValueError(f"it has {written} expressions, the index says {indexed}")
        except ValueError as error:
            raise InputError(
                f"{where}: its JSON is not what was written ({first_of(error)}); copy the shard again, or "
                "write the cache again"
            ) from error
        return annotation

    def to_bytes(self) -> bytes:
        """Serialise to JSON; the same annotation gives the same bytes."""
        content = self.model_dump(mode="json")
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
