"""Places in files that are shared: paths and addresses."""

from __future__ import annotations


def last_part(place: str) -> str:
    """The last part of a path or an address, never with a user name and a password.

    ``/home/me/caches/refcoco`` and ``s3://bucket/caches/refcoco`` give ``refcoco``; an address without a path
    gives its host or bucket.
    """
    before, _, last = place.rstrip("/").rpartition("/")
    return last.rpartition("@")[2] if before.endswith(":/") else last
