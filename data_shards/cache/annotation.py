"""The ``json`` member of an image group: all that is known of an image without encoding it."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from pydantic import model_validator

from maris_fast.data_shards.records import Frozen, ImageRecord
from maris_fast.encoders import TextFeatures, TokenisedText
from maris_fast.geometry import ImageGeometry


class Annotation(Frozen):
    """Made by ``of``, written by ``to_bytes``, read by ``model_validate_json``, whoever writes or reads."""

    record: ImageRecord
    geometry: ImageGeometry
    tokens: tuple[tuple[str, ...], ...]
    """Readable form of each expression's words, L_t of them."""
    truncated: tuple[bool, ...]
    """Of each expression, whether it was cut to ``encoders.text.max_words``."""
    word_offsets: tuple[int, ...]
    """Rows of ``words.npy`` that belong to each expression, [E + 1]."""
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
        random_encoders: tuple[str, ...],
    ) -> Annotation:
        """Of an image whose expressions are tokenised."""
        lengths = [len(expression.tokens) for expression in expressions]
        return cls(
            record=record,
            geometry=geometry,
            tokens=tuple(expression.tokens for expression in expressions),
            truncated=tuple(expression.truncated for expression in expressions),
            word_offsets=(0, *np.cumsum(lengths).tolist()),
            random_encoders=random_encoders,
        )

    def to_bytes(self) -> bytes:
        """The same annotation gives the same bytes."""
        content = self.model_dump(mode="json")
        return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()
