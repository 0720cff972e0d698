"""Whether all ranks read the same cache: each finds its share of a split in its own copy's indexes."""

from __future__ import annotations

import socket
from collections.abc import Sequence

from maris_fast.data_shards.stream import CacheReader
from maris_fast.errors import InputError
from maris_fast.train.cache_info import CacheInfo
from maris_fast.train.ranks import Ranks


def require_same_cache(ranks: Ranks, readers: Sequence[CacheReader], name: str) -> None:
    """Compare the splits of ``readers`` over all ranks, which must call it together.

    Args:
        name: what the message calls the cache: the setting or argument that gives its place.

    Raises:
        MarisError: on all ranks, if one reads other contents than rank 0.
    """
    fingerprints = {one.split: CacheInfo.of(one.manifest, one.split).fingerprint for one in readers}
    found = ranks.gather((socket.gethostname(), fingerprints))
    ranks.from_rank_zero(lambda: _require_same(found, f"{name} {readers[0].place}"))


def _require_same(found: Sequence[tuple[str, dict[str, str]]], cache: str) -> None:
    (first_host, first), *others = found
    for rank, (host, fingerprints) in enumerate(others, 1):
        for split, fingerprint in fingerprints.items():
            if fingerprint != first[split]:
                raise InputError(
                    f"{cache} is not the same for all ranks: split {split} has fingerprint {first[split]} "
                    f"for rank 0 on {first_host}, {fingerprint} for rank {rank} on {host}; copy one cache to "
                    "all machines, or use a shared folder or an address"
                )
