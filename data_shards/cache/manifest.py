"""The head of a cache: its contents, how they were made, and in which files they are.

A cache is a folder::

    manifest.json                      this file, written last
    <split>-000000.tar                 a WebDataset shard, one group of members per image
    <split>-000000.index.npz           where each member lies in the shard (see ``index``)

with ``writing.json`` in the manifest's place while shards are missing.
"""

from __future__ import annotations

import hashlib
from os import PathLike
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from maris_fast.config import MOST_CHANNELS, EncoderSettings, FeatureDtype, StoreAddress
from maris_fast.data_shards.cache.place import Files, files_of, read_start
from maris_fast.data_shards.records import DatasetInfo, FileName, Frozen
from maris_fast.encoders import EncodersProvenance
from maris_fast.errors import InputError, first_of
from maris_fast.system.object_store import ObjectStore, StoreError

FORMAT_VERSION = 3
MANIFEST = "manifest.json"
WRITING = "writing.json"
MOST_BYTES = 2**26
"""Size limit of either file; a manifest has 200 bytes per shard."""

TAR_BLOCK = 512
"""Bytes of a tar header, and the unit that members are padded to."""

LEVELS = ("level1.npy", "level2.npy", "level3.npy")
ANNOTATION, MASKS, SCALES, WORDS = "json", "masks.npy", "scales.npy", "words.npy"


def members_of(feature_dtype: FeatureDtype) -> tuple[str, ...]:
    """Names of an image's members, after its key, in the order in which they are in the shard."""
    scales = () if feature_dtype == "bf16" else (SCALES,)
    return tuple(sorted((ANNOTATION, *LEVELS, MASKS, WORDS, *scales)))


def index_name(shard: str) -> str:
    return f"{Path(shard).stem}.index.npz"


Count = Annotated[int, Field(ge=0)]


class ShardEntry(Frozen):
    name: FileName
    bytes: Count
    images: Count
    expressions: Count
    index_sha256: str = Field(description="of the index file beside the shard")

    @model_validator(mode="after")
    def _has_room(self) -> ShardEntry:
        """Require counts that the shard's size allows, as they bound the index that is read."""
        if TAR_BLOCK * self.images > self.bytes or self.expressions > self.bytes:
            raise ValueError(
                f"shard {self.name} of {self.bytes:,} bytes cannot hold {self.images:,} images with "
                f"{self.expressions:,} expressions"
            )
        return self

    @property
    def index_name(self) -> str:
        return index_name(self.name)


class SplitEntry(Frozen):
    shards: tuple[ShardEntry, ...]
    images: Count
    targets: Count
    expressions: Count
    truncated_expressions: Count = Field(description="expressions cut to encoders.text.max_words")
    bytes: Count


class WrittenWith(Frozen):
    """What the shards' bytes depend on, besides the encoders and the stored dtype."""

    records_sha256: dict[str, str] = Field(description="of each split's records")
    shard_bytes: int
    batch_size: int
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]


LeftOutSentences = dict[str, dict[int, tuple[int, ...]]]
"""Ids of sentences by split and image; an empty tuple: the image with all its sentences."""


class CacheHead(Frozen):
    """Everything known about a cache before its first image is encoded."""

    format_version: int = FORMAT_VERSION
    dataset: DatasetInfo
    encoders: EncodersProvenance
    encoder_settings: EncoderSettings = Field(description="that built them, paths as they were then")
    random: tuple[str, ...] = Field(
        default_factory=lambda head: tuple(head["encoders"].random),
        description="encoders of random weights, for other readers of the file",
    )
    feature_dtype: FeatureDtype
    channels: int = Field(gt=0, le=MOST_CHANNELS, description="C_v of each of the three levels")
    text_channels: int = Field(gt=0, le=MOST_CHANNELS, description="C'")
    checksum: Literal["crc32c"] = Field("crc32c", description="of each member's payload")
    written_with: WrittenWith
    left_out: LeftOutSentences = Field(
        default_factory=dict, description="of the data set, as the encoders cannot take it"
    )

    @model_serializer(mode="wrap")
    def _of_what_there_is(self, whole: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit an empty ``left_out``, so that checksums of older caches still match."""
        written: dict[str, Any] = whole(self)
        if not self.left_out:
            written.pop("left_out", None)
        return written

    def differences(self, other: CacheHead) -> list[str]:
        """Reasons why the two's shards cannot be in one cache, one per line; file locations are ignored."""
        lines = self.encoders.differences(other.encoders)
        attention = (head.encoder_settings.sam.attention for head in (self, other))
        lines += _difference("encoders.sam.attention", *attention)
        for name in ("format_version", "feature_dtype"):
            lines += _difference(name, getattr(self, name), getattr(other, name))
        mine, theirs = self.written_with, other.written_with
        for name in ("shard_bytes", "batch_size", "device", "precision"):
            lines += _difference(name, getattr(mine, name), getattr(theirs, name))
        splits = [", ".join(sorted(each.records_sha256)) for each in (mine, theirs)]
        lines += _difference("splits", *splits)
        for split in mine.records_sha256.keys() & theirs.records_sha256.keys():
            hashes = (each.records_sha256[split] for each in (mine, theirs))
            lines += _difference(f"records of {split} (SHA-256)", *hashes)
        return sorted(lines)


class CacheManifest(CacheHead):
    splits: dict[str, SplitEntry]
    sha256: str = Field("", description="of all other fields, as this program writes them")

    def of_split(self, split: str, cache: object) -> SplitEntry:
        """The entry of a split; ``cache`` names the cache in the message.

        Raises:
            InputError: no such split; the message lists the existing ones.
        """
        if split not in self.splits:
            raise InputError(
                f"no split {split!r} in the cache {cache}; it has {', '.join(sorted(self.splits))}"
            )
        return self.splits[split]

    def sealed(self) -> CacheManifest:
        """A copy with its checksum."""
        return self.model_copy(update={"sha256": self.digest()})

    def digest(self) -> str:
        return hashlib.sha256(self.model_dump_json(exclude={"sha256"}).encode()).hexdigest()


class ShardPlan(Frozen):
    """A shard before it is written: its records, and its exact size in bytes."""

    split: FileName
    number: int
    first_byte: int = Field(description="where its first record begins in the split's JSON lines")
    images: int
    expressions: int
    targets: int
    truncated_expressions: int
    bytes: int
    index_bytes: int

    @property
    def name(self) -> str:
        return f"{self.split}-{self.number:06d}.tar"

    @property
    def index_name(self) -> str:
        return index_name(self.name)


class Writing(Frozen):
    """``writing.json``: a cache that is not complete yet; any number of processes work on it."""

    head: CacheHead
    plan: tuple[ShardPlan, ...]


def read_manifest(place: str | PathLike[str] | StoreAddress | ObjectStore) -> CacheManifest:
    """The manifest of the cache in a folder or below an address.

    Raises:
        InputError: no cache, one that this program does not read, or a server that does not deliver it.
    """
    files = files_of(place)
    path = files / MANIFEST
    if isinstance(files, Path) and not (files / MANIFEST).is_file():
        _require_complete(files)
        raise InputError(f"{files} holds no feature cache (no {MANIFEST}); run `maris-fast cache` first")
    try:
        content = _whole(files, MANIFEST)
    except FileNotFoundError as error:
        raise InputError(f"{place} holds no feature cache, or no complete one: {error}") from error
    except StoreError as error:
        raise InputError(str(error)) from error
    try:
        manifest = CacheManifest.model_validate_json(content)
    except ValidationError as error:
        raise InputError(
            f"{path} is damaged or of another format; write the cache again ({first_of(error)})"
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {manifest.format_version}, this program reads {FORMAT_VERSION}; "
            "write the cache again"
        )
    if manifest.sha256 != manifest.digest():
        raise InputError(
            f"{path} is damaged: its checksum does not fit its content; copy it again, or delete it and run "
            "the `maris-fast cache` command that made it"
        )
    return manifest


def _require_complete(folder: Path) -> None:
    if (folder / WRITING).is_file():
        plan = read_writing(folder).plan
        written = sum((folder / shard.name).is_file() for shard in plan)
        raise InputError(
            f"the cache {folder} is not complete: {written} of {len(plan)} shards written; run the same "
            "`maris-fast cache` command again"
        )


def read_writing(files: Files) -> Writing:
    """The content of ``writing.json`` in a folder or below an address.

    Raises:
        InputError: it is damaged, or of another version.
        FileNotFoundError: there is none.
    """
    path = files / WRITING
    content = _whole(files, WRITING)
    try:
        return Writing.model_validate_json(content)
    except ValidationError as error:
        raise InputError(
            f"{path} is damaged or of another version; delete {files} and write the cache again "
            f"({first_of(error)})"
        ) from error


def _whole(files: Files, name: str) -> bytes:
    content = read_start(files, name, MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise InputError(
            f"{files / name} has more than {MOST_BYTES:,} bytes, so it is not what its name says"
        )
    return content


def _difference(name: str, mine: object, theirs: object) -> list[str]:
    return [] if mine == theirs else [f"{name}: {mine} against {theirs}"]
