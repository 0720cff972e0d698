"""Caches without encoders: random numbers in the sizes of ViT-H's features of photographs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from maris_fast.config import EncoderSettings, FeatureDtype, SamSettings, TextSettings
from maris_fast.data_shards.cache.group import EncodedGroup
from maris_fast.data_shards.cache.index import Geometries, ShardIndex
from maris_fast.data_shards.cache.manifest import (
    ANNOTATION,
    MANIFEST,
    MASKS,
    SCALES,
    WORDS,
    CacheHead,
    CacheManifest,
    ShardEntry,
    ShardPlan,
    SplitEntry,
    WrittenWith,
    members_of,
)
from maris_fast.data_shards.cache.shard_plan import GrowingShard, member_bytes
from maris_fast.data_shards.cache.shard_writer import split_entry, write_shard
from maris_fast.data_shards.records import DatasetInfo, Expression, ImageRecord, Target
from maris_fast.encoders import EncodersProvenance, TextFeatures, TokenisedText
from maris_fast.encoders.provenance import SamProvenance, TextProvenance
from maris_fast.geometry import ImageGeometry
from maris_fast.rle import Rle
from maris_fast.system.files import sha256_of

GRIDS = ((64, 48), (48, 64), (43, 64))
"""Of photographs: 4:3 portrait, 4:3 landscape and 3:2 landscape."""
CHANNELS, TEXT_CHANNELS = 1280, 768
TOKENS = ("the", "thing", "over", "there")
EXPRESSIONS, TARGETS = 7, 2
"""Of an image."""
SHARD_BYTES, IMAGES_A_HOLLOW_SHARD = 2**29, 170


def write_fake_cache(
    folder: Path,
    images: int,
    *,
    grids: Sequence[tuple[int, int]] = GRIDS[:1],
    channels: int = CHANNELS,
    text_channels: int = TEXT_CHANNELS,
    expressions: int = EXPRESSIONS,
    feature_dtype: FeatureDtype = "int8",
) -> None:
    """Write a cache with the split ``train``, with the writer of real caches."""
    random, head = np.random.default_rng(0), _head(feature_dtype, channels, text_channels)
    folder.mkdir(parents=True)
    shards: list[ShardPlan] = []
    waiting: list[_FakeImage] = []
    growing = GrowingShard(0)
    for number in range(images):
        image = _FakeImage.of(number, grids[number % len(grids)], expressions)
        waiting.append(image)
        growing.add(image.record, image.tokenised, image.sizes(head))
        if growing.tar_bytes >= SHARD_BYTES or number + 1 == images:
            plan = growing.plan("train", len(shards), feature_dtype)
            groups = (image.encoded(channels, text_channels, random) for image in waiting)
            write_shard(folder, plan, groups, head, ahead=1)
            shards.append(plan)
            waiting, growing = [], GrowingShard(0)
    _write_manifest(folder, split_entry(shards, lambda shard: sha256_of(folder / shard.index_name)), head)


def fake_shard(
    images: int, *, feature_dtype: FeatureDtype
) -> tuple[ShardPlan, list[EncodedGroup], CacheHead]:
    """What ``write_shard`` takes: the plan of a shard, its groups in memory, and the head of its cache."""
    random, head = np.random.default_rng(0), _head(feature_dtype, CHANNELS, TEXT_CHANNELS)
    made = [_FakeImage.of(number, GRIDS[0], EXPRESSIONS) for number in range(images)]
    growing = GrowingShard(0)
    for image in made:
        growing.add(image.record, image.tokenised, image.sizes(head))
    groups = [image.encoded(CHANNELS, TEXT_CHANNELS, random) for image in made]
    return growing.plan("train", 0, feature_dtype), groups, head


def write_hollow_cache(folder: Path, images: int) -> None:
    """Write a manifest, indexes, and shards that have their size but no content (sparse files)."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    entries: list[ShardEntry] = []
    for first in range(0, images, IMAGES_A_HOLLOW_SHARD):
        index = _hollow_index(first, min(IMAGES_A_HOLLOW_SHARD, images - first), random)
        content = index.to_bytes()
        entry = ShardEntry(
            name=f"train-{len(entries):06d}.tar",
            bytes=int(index.offset[-1, -1] + index.size[-1, -1]) + 10_240,
            images=index.images,
            expressions=len(index.words),
            index_sha256=hashlib.sha256(content).hexdigest(),
        )
        (folder / entry.index_name).write_bytes(content)
        with (folder / entry.name).open("wb") as shard:
            shard.truncate(entry.bytes)
        entries.append(entry)
    split = SplitEntry(
        shards=tuple(entries),
        images=images,
        targets=images * TARGETS,
        expressions=sum(entry.expressions for entry in entries),
        truncated_expressions=0,
        bytes=sum(entry.bytes for entry in entries),
    )
    _write_manifest(folder, split, _head("int8", CHANNELS, TEXT_CHANNELS))


@dataclass(frozen=True)
class _FakeImage:
    """An image without its features, which are drawn when it is encoded."""

    record: ImageRecord
    geometry: ImageGeometry

    @classmethod
    def of(cls, number: int, grid: tuple[int, int], expressions: int) -> _FakeImage:
        h, w = grid
        geometry = ImageGeometry(10 * h, 10 * w, 16 * h, 16 * w, h, w)
        mask = Rle(size=(geometry.height, geometry.width), counts="0")
        record = ImageRecord(
            image_id=number,
            image=f"{number}.jpg",
            height=geometry.height,
            width=geometry.width,
            targets=tuple(
                Target(
                    ref_id=TARGETS * number + t,
                    ann_ids=(TARGETS * number + t,),
                    category="thing",
                    mask=mask,
                    area=1,
                )
                for t in range(TARGETS)
            ),
            expressions=tuple(
                Expression(sent_id=100 * number + e, target=e % TARGETS, text=" ".join(TOKENS))
                for e in range(expressions)
            ),
        )
        return cls(record, geometry)

    @property
    def tokenised(self) -> list[TokenisedText]:
        return [TokenisedText((), TOKENS, truncated=False) for _ in self.record.expressions]

    def sizes(self, head: CacheHead) -> dict[str, int]:
        return member_bytes(self.record, self.geometry, self.tokenised, head)

    def encoded(self, channels: int, text_channels: int, random: np.random.Generator) -> EncodedGroup:
        h, w = self.geometry.grid
        first, second, third = (
            torch.from_numpy(random.integers(-127, 128, (h, w, channels), np.int8)).float() for _ in range(3)
        )
        words = random.standard_normal((len(self.record.expressions), len(TOKENS), text_channels), np.float32)
        return EncodedGroup(
            record=self.record,
            geometry=self.geometry,
            levels=(first, second, third),
            expressions=tuple(
                TextFeatures(torch.from_numpy(each), TOKENS, truncated=False) for each in words
            ),
            targets=random.random((TARGETS, 4 * h, 4 * w)) > 0.5,
        )


def _hollow_index(first: int, images: int, random: np.random.Generator) -> ShardIndex:
    grids = np.array(GRIDS, np.int32)[random.integers(0, len(GRIDS), images)]
    h, w = grids.T.astype(np.int64)
    counts = random.integers(1, 14, images)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    words = random.integers(1, 9, offsets[-1]).astype(np.int32)
    word_sums = np.add.reduceat(words, offsets[:-1])
    of = {
        ANNOTATION: np.full(images, 3000),
        MASKS: TARGETS * 4 * h * -(-4 * w // 8),
        SCALES: np.full(images, 4 * 3 * CHANNELS),
        WORDS: 2 * TEXT_CHANNELS * word_sums,
    }
    size = np.stack([of.get(name, h * w * CHANNELS) for name in members_of("int8")], axis=1).astype(np.int64)
    stored = -(-size // 512) * 512 + 1024
    ends = np.cumsum(stored.reshape(-1)).reshape(stored.shape)
    return ShardIndex(
        image_id=np.arange(first, first + images),
        geometry=np.stack(Geometries(10 * h, 10 * w, 16 * h, 16 * w, h, w), axis=1).astype(np.int32),
        targets=np.full(images, TARGETS, np.int32),
        offset=ends - stored + 640,
        size=size,
        crc=np.zeros(size.shape, np.uint32),
        expression_offset=offsets.astype(np.int64),
        words=words,
        target=random.integers(0, TARGETS, offsets[-1]).astype(np.int32),
        object=np.arange(offsets[-1]),
    )


def _head(feature_dtype: FeatureDtype, channels: int, text_channels: int) -> CacheHead:
    untrained = {"library": "none", "weights": "random", "sha256": None, "seed": 0}
    sam = {**untrained, "arch": "synthetic", "channels": channels, "image_size": 1024, "blocks": (0, 1, 2)}
    text = {**untrained, "arch": "synthetic", "channels": text_channels, "quick_gelu": False}
    return CacheHead(
        dataset=DatasetInfo(
            name="synthetic", split_by="none", image_root="/", source="none", synthetic=True, splits={}
        ),
        encoders=EncodersProvenance(
            sam=SamProvenance.model_validate(sam),
            text=TextProvenance.model_validate({**text, "context_length": 77, "max_words": 32}),
        ),
        encoder_settings=EncoderSettings(
            sam=SamSettings(arch="vit_tiny", weights="random"), text=TextSettings(weights="random")
        ),
        feature_dtype=feature_dtype,
        channels=channels,
        text_channels=text_channels,
        written_with=WrittenWith(
            records_sha256={}, shard_bytes=0, batch_size=0, device="cpu", precision="fp32"
        ),
    )


def _write_manifest(folder: Path, entry: SplitEntry, head: CacheHead) -> None:
    manifest = CacheManifest(**dict(head), splits={"train": entry})
    (folder / MANIFEST).write_text(manifest.sealed().model_dump_json())
