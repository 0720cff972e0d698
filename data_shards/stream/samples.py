"""What is known of a batch's expressions, read from the images' JSON."""

from __future__ import annotations

from collections.abc import Iterator

from maris_fast.data_shards.cache.annotation import Annotation
from maris_fast.data_shards.stream.batch import Sample
from maris_fast.data_shards.stream.plan import Group
from maris_fast.errors import InputError, first_of
from maris_fast.geometry import ImageGeometry


def samples_of(group: Group, content: bytearray, geometry: ImageGeometry, where: str) -> Iterator[Sample]:
    """A sample for each of a group's expressions.

    Args:
        group: of one image.
        content: its annotation.
        geometry: of the image, as the index says.
        where: it comes from, for messages.

    Raises:
        InputError: it is not what the cache's writer writes.
    """
    try:
        annotation = Annotation.model_validate_json(content)
        if annotation.geometry != geometry:
            raise ValueError(f"it is of {annotation.geometry}, the index says {geometry}")
        yield from _samples(group, annotation)
    except (ValueError, LookupError) as error:
        raise InputError(
            f"{where}: its JSON is not what was written ({first_of(error)}); copy the shard again, or write "
            "the cache again"
        ) from error


def _samples(group: Group, annotation: Annotation) -> Iterator[Sample]:
    record = annotation.record
    words_of = group.words_of or group.expressions
    for place, read in zip(group.expressions, words_of, strict=True):
        expression = record.expressions[place]
        target = record.targets[expression.target]
        yield Sample(
            image_id=record.image_id,
            image=record.image,
            ref_id=target.ref_id,
            ann_ids=target.ann_ids,
            category=target.category,
            sent_id=expression.sent_id,
            text=record.expressions[read].text,
            tokens=annotation.tokens[read],
            kind=expression.kind,
            target=target.mask,
            geometry=annotation.geometry,
            overlap=target.overlap,
            first=all(other.target != expression.target for other in record.expressions[:place]),
            orientation=record.orientation,
        )
