"""One image group as the members of a shard."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maris_fast.data_shards.cache.features import quantise, to_float16
from maris_fast.data_shards.cache.manifest import ANNOTATION, LEVELS, MASKS, SCALES, WORDS, FeatureDtype
from maris_fast.data_shards.cache.masks import pack_masks
from maris_fast.data_shards.records import ImageRecord
from maris_fast.encoders import TextFeatures
from maris_fast.errors import InputError
from maris_fast.geometry import ImageGeometry


@dataclass(frozen=True)
class EncodedGroup:
    """An image with everything that training, evaluation and pictures need of it."""

    record: ImageRecord
    geometry: ImageGeometry
    levels: tuple[Tensor, Tensor, Tensor]
    """Float32 [h, w, C_v] each."""
    expressions: tuple[TextFeatures, ...]
    """In the order of the record's expressions."""
    targets: NDArray[np.bool_]
    """[T, 4h, 4w], in the order of the record's targets."""


@dataclass(frozen=True)
class Member:
    """A file of the shard; ``payload`` bytes at its end are the content, what is before is numpy's header."""

    content: bytes
    payload: int


def key_of(record: ImageRecord) -> str:
    return f"{record.image_id:012d}"


def members(group: EncodedGroup, feature_dtype: FeatureDtype, random: tuple[str, ...]) -> dict[str, Member]:
    """The group's members by name.

    Raises:
        InputError: features that the stored dtype cannot hold; names the image.
    """
    try:
        arrays = _feature_arrays(group.levels, feature_dtype)
        arrays[WORDS] = to_float16(
            torch.cat([expression.words for expression in group.expressions]),
            what="text features",
            remedy="check encoders.text.weights",
        )
    except InputError as error:
        raise InputError(f"image {group.record.image} (id {group.record.image_id}): {error}") from error
    arrays[MASKS] = pack_masks(group.targets)
    stored = {name: _npy(array) for name, array in arrays.items()}
    annotation = json.dumps(_annotation(group, random), sort_keys=True, separators=(",", ":")).encode()
    stored[ANNOTATION] = Member(annotation, len(annotation))
    return stored


def _feature_arrays(
    levels: tuple[Tensor, Tensor, Tensor], feature_dtype: FeatureDtype
) -> dict[str, NDArray[Any]]:
    if feature_dtype == "float16":
        return {
            name: to_float16(level, what=f"features of {name}", remedy="set feature_dtype to int8")
            for name, level in zip(LEVELS, levels, strict=True)
        }
    quantised = [quantise(level) for level in levels]
    arrays: dict[str, NDArray[Any]] = {name: q for name, (q, _) in zip(LEVELS, quantised, strict=True)}
    arrays[SCALES] = np.stack([scale for _, scale in quantised])  # [3, C_v]
    return arrays


def _annotation(group: EncodedGroup, random: tuple[str, ...]) -> dict[str, Any]:
    lengths = [len(expression.tokens) for expression in group.expressions]
    return {
        "record": group.record.model_dump(mode="json"),
        "geometry": asdict(group.geometry),
        "word_offsets": [0, *np.cumsum(lengths).tolist()],
        "tokens": [expression.tokens for expression in group.expressions],
        "truncated": [expression.truncated for expression in group.expressions],
        "random_encoders": random,
    }


def _npy(array: NDArray[Any]) -> Member:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    return Member(stream.getvalue(), array.nbytes)
