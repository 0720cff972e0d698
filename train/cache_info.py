"""What a run has to know about its cache, besides the batches."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from maris_fast.data_shards.cache import CacheManifest
from maris_fast.data_shards.cache.features import STORED
from maris_fast.encoders import EncodersProvenance


@dataclass(frozen=True)
class CacheInfo:
    """Widths of the features, the encoders that produced them, and which expressions there are to train on.

    ``feature_itemsize``: bytes per stored feature value. ``image_root``: where the images were when the cache
    was written; they need not exist any more. ``dataset``: its name and the author of its splits.
    """

    visual_channels: int
    text_channels: int
    encoders: EncodersProvenance
    fingerprint: str
    feature_itemsize: int
    image_root: Path
    dataset: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, manifest: CacheManifest, split: str) -> CacheInfo:
        """Info on one of the cache's splits; the fingerprint depends on its contents, not its path."""
        contents = "".join(shard.index_sha256 for shard in manifest.splits[split].shards)
        return cls(
            visual_channels=manifest.channels,
            text_channels=manifest.text_channels,
            encoders=manifest.encoders,
            fingerprint=hashlib.sha256(contents.encode()).hexdigest()[:16],
            feature_itemsize=STORED[manifest.feature_dtype].dtype.itemsize,
            image_root=Path(manifest.dataset.image_root),
            dataset={"name": manifest.dataset.name, "split_by": manifest.dataset.split_by},
        )
