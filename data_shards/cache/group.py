"""One image group as the members of a shard."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maris_fast.config import FeatureDtype
from maris_fast.data_shards.cache.annotation import Annotation
from maris_fast.data_shards.cache.features import to_float16, to_stored
from maris_fast.data_shards.cache.manifest import ANNOTATION, LEVELS, MASKS, SCALES, WORDS, CacheHead
from maris_fast.data_shards.cache.mask_targets import pack_masks
from maris_fast.data_shards.records import ImageRecord
from maris_fast.encoders import TextFeatures
from maris_fast.errors import InputError
from maris_fast.geometry import ImageGeometry


@dataclass(frozen=True)
class EncodedGroup:
    """An image with everything that training, evaluation and pictures need."""

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
    """A file of the shard; its last ``payload`` bytes are the data, after numpy's header if it has one."""

    content: bytes
    payload: int


def key_of(record: ImageRecord) -> str:
    return f"{record.image_id:012d}"


def members(group: EncodedGroup, head: CacheHead) -> dict[str, Member]:
    """The group's members by name.

    Raises:
        InputError: features that the stored dtype cannot hold; the message names the image.
    """
    try:
        arrays = _feature_arrays(group.levels, head.feature_dtype)
        arrays[WORDS] = to_float16(
            torch.cat([expression.words for expression in group.expressions]),
            what="text features",
            remedy="check encoders.text.weights",
        )
    except InputError as error:
        raise InputError(f"image {group.record.image} (id {group.record.image_id}): {error}") from error
    arrays[MASKS] = pack_masks(group.targets)
    stored = {name: _npy(array) for name, array in arrays.items()}
    content = Annotation.of(group.record, group.geometry, group.expressions, head.encoders).to_bytes()
    stored[ANNOTATION] = Member(content, len(content))
    return stored


def _feature_arrays(
    levels: tuple[Tensor, Tensor, Tensor], feature_dtype: FeatureDtype
) -> dict[str, NDArray[Any]]:
    stored = [to_stored(level, feature_dtype) for level in levels]
    arrays: dict[str, NDArray[Any]] = {name: q for name, (q, _) in zip(LEVELS, stored, strict=True)}
    scales = [scale for _, scale in stored if scale is not None]
    if scales:
        arrays[SCALES] = np.stack(scales)  # [3, C_v]
    return arrays


def _npy(array: NDArray[Any]) -> Member:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.ascontiguousarray(array), allow_pickle=False)
    return Member(stream.getvalue(), array.nbytes)
