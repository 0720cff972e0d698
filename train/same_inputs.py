"""Whether all ranks read the same files, of which each may have its own copy."""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from maris_fast.data_shards.stream import CacheReader
from maris_fast.errors import InputError
from maris_fast.train.cache_info import CacheInfo
from maris_fast.train.ranks import Ranks

T = TypeVar("T")


def require_same_cache(ranks: Ranks, readers: Sequence[CacheReader], name: str) -> None:
    """Compare the splits of ``readers`` over all ranks, which must call it together.

    Each rank finds its share of a split in its own copy's indexes.

    Args:
        name: what the message calls the cache: the setting or argument that gives its place.

    Raises:
        MarisError: on all ranks, if one reads other contents than rank 0.
    """

    def difference(zero: str, first: Mapping[str, str], other: str, found: Mapping[str, str]) -> str | None:
        for split, fingerprint in found.items():
            if fingerprint != first[split]:
                return (
                    f"{name} {readers[0].place} is not the same for all ranks: split {split} has fingerprint "
                    f"{first[split]} for {zero}, {fingerprint} for {other}; copy one cache to "
                    "all machines, or use a shared folder or an address"
                )
        return None

    fingerprints = {one.split: CacheInfo.of(one.manifest, one.split).fingerprint for one in readers}
    _require_same(ranks, fingerprints, difference)


def require_same_weights(ranks: Ranks, weights: Path, sha256: str) -> None:
    """Compare the weights that the ranks score together, all of which must call it.

    Raises:
        MarisError: on all ranks, if one has other weights than rank 0.
    """

    def difference(zero: str, first: tuple[str, str], other: str, found: tuple[str, str]) -> str | None:
        if found[1] == first[1]:
            return None
        return (
            f"the ranks share the scoring of one file of weights: {zero} has {first[0]} ({first[1][:8]}), "
            f"{other} has {found[0]} ({found[1][:8]}); name the same for all, "
            "or leave out --ranks 0, so that each scores its own"
        )

    _require_same(ranks, (str(weights), sha256), difference)


def _require_same(ranks: Ranks, own: T, difference: Callable[[str, T, str, T], str | None]) -> None:
    """Raise on all ranks what ``difference`` says of rank 0, its value, another rank and its value."""
    found = ranks.gather((socket.gethostname(), own))

    def require() -> None:
        (first_host, first), *others = found
        for rank, (host, value) in enumerate(others, 1):
            if reason := difference(f"rank 0 on {first_host}", first, f"rank {rank} on {host}", value):
                raise InputError(reason)

    ranks.from_rank_zero(require)
