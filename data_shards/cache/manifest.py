"""The head of a cache: what is in it, what made it, and where.

A cache is a folder::

    manifest.json                      this file, written last
    <split>-000000.tar                 a WebDataset shard, one group of members an image
    <split>-000000.index.npz           where each member lies in the shard (see ``index``)
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from maris_fast.data_shards.records import DatasetInfo, Frozen
from maris_fast.encoders import EncodersProvenance
from maris_fast.errors import InputError

FORMAT_VERSION = 1
MANIFEST = "manifest.json"

FeatureDtype = Literal["int8", "float16"]
LEVELS = ("level1.npy", "level2.npy", "level3.npy")
ANNOTATION, MASKS, SCALES, WORDS = "json", "masks.npy", "scales.npy", "words.npy"


def members_of(feature_dtype: FeatureDtype) -> tuple[str, ...]:
    """Names of an image's members behind its key, in the order in which they stand in the shard."""
    scales = (SCALES,) if feature_dtype == "int8" else ()
    return tuple(sorted((ANNOTATION, *LEVELS, MASKS, WORDS, *scales)))


class ShardEntry(Frozen):
    name: str
    bytes: int
    images: int
    expressions: int
    index_sha256: str = Field(description="of the index file beside the shard")

    @property
    def index_name(self) -> str:
        return f"{Path(self.name).stem}.index.npz"


class SplitEntry(Frozen):
    shards: tuple[ShardEntry, ...]
    images: int
    targets: int
    expressions: int
    truncated_expressions: int = Field(description="expressions cut to encoders.text.max_words")
    bytes: int


class CacheManifest(Frozen):
    format_version: int = FORMAT_VERSION
    dataset: DatasetInfo
    encoders: EncodersProvenance
    random: tuple[str, ...] = Field(description="encoders that ran on random weights; empty for real ones")
    feature_dtype: FeatureDtype
    channels: int = Field(description="C_v of each of the three levels")
    text_channels: int = Field(description="C'")
    checksum: Literal["crc32"] = Field("crc32", description="of each member's payload, as zlib computes it")
    splits: dict[str, SplitEntry]


def read_manifest(folder: Path) -> CacheManifest:
    """The manifest of the cache in ``folder``.

    Raises:
        InputError: no cache there, or one that this program does not read.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder} holds no feature cache (no {MANIFEST}); run `maris-fast cache` first")
    try:
        manifest = CacheManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise InputError(
            f"{path} is damaged or of another format; write the cache again ({error})"
        ) from error
    if manifest.format_version != FORMAT_VERSION:
        raise InputError(
            f"{path} has format version {manifest.format_version}, this program reads {FORMAT_VERSION}; "
            "write the cache again"
        )
    return manifest
