"""Location of a cache: a local folder, or the address of a folder on a server."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, PlainSerializer

from maris_fast.errors import ArgumentError

SCHEMES = ("s3", "gs", "hf", "https", "http")
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://(.*)", re.DOTALL)
# `Path` turns the two slashes of an address into one.
_ONE_SLASH = re.compile(rf"({'|'.join(SCHEMES)}):/(?!/)")
_REST = re.compile(r"[^\s?#]*[^\s?#/]")
_HF = re.compile(r"datasets/[^/@]+/[^/@]+(@[^/]+)?(/[^/]+)*")


@dataclass(frozen=True)
class StoreAddress:
    """A folder in an object store or on a web server; ``address / name`` is a file in it.

    Attributes:
        url: with one of ``SCHEMES``, without a trailing slash.
    """

    url: str

    def __post_init__(self) -> None:
        scheme, _, rest = self.url.partition("://")
        if scheme not in SCHEMES:
            known = ", ".join(f"{one}://" for one in SCHEMES)
            raise ArgumentError(f"{self.url!r} is an address of no known kind; these are read: {known}")
        if not _REST.fullmatch(rest):
            raise ArgumentError(
                f"{self.url!r}: expected a host or bucket and a path, without '?', '#' or spaces"
            )
        if scheme == "hf" and not _HF.fullmatch(rest):
            raise ArgumentError(f"{self.url!r}: expected hf://datasets/ORG/NAME[@REVISION][/PATH]")

    @property
    def scheme(self) -> str:
        return self.url.partition("://")[0]

    def __truediv__(self, name: str) -> StoreAddress:
        return StoreAddress(f"{self.url}/{name}")

    def __str__(self) -> str:
        return self.url


def cache_place(place: str | os.PathLike[str] | StoreAddress) -> Path | StoreAddress:
    """A folder, or an address if it looks like one.

    Raises:
        ArgumentError: an address with another scheme, or without host, bucket or data set.
    """
    if isinstance(place, StoreAddress):
        return place
    text = _ONE_SLASH.sub(r"\1://", os.fspath(place), count=1)
    if found := _ADDRESS.fullmatch(text):
        return StoreAddress(f"{found[1]}://{found[2].rstrip('/')}")
    return Path(place)


CachePlace = Annotated[
    Path | StoreAddress,
    BeforeValidator(cache_place),
    PlainSerializer(str, return_type=str, when_used="json"),
]
