"""A connection to Ray, without its messages."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from maris_fast.errors import ConfigError
from maris_fast.system.end_signals import asked

_STORE_BYTES = 100_000_000
"""Shared memory of a cluster that this process starts; none of our calls passes much data."""


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """Ray's module, connected to a cluster until the block ends.

    The cluster is the one at RAY_ADDRESS, else one that runs on this machine, else a new one here.

    Raises:
        ConfigError: Ray is not installed, or cannot connect.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError("Ray is not installed; pip install 'maris-fast[ray]'") from error
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a new cluster would send them
    quiet = {"logging_level": logging.CRITICAL, "log_to_driver": False}
    before = {number: signal.getsignal(number) for number in asked()}
    try:
        address = os.environ.get("RAY_ADDRESS")
        _require_reached(address or "")
        try:
            ray.init(address or "auto", **quiet)
        except ConnectionError:
            if address:
                raise
            ray.init("local", include_dashboard=False, object_store_memory=_STORE_BYTES, **quiet)
    except (OSError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"no connection to Ray ({' '.join(str(error).split())}); set RAY_ADDRESS to a cluster that runs "
            "the same versions of Ray and Python, or to local for a new one on this machine"
        ) from None
    finally:
        for number, handler in before.items():  # Ray replaces SIGTERM's handler
            signal.signal(number, handler)
    try:
        yield ray
    finally:
        ray.shutdown()


def _require_reached(address: str) -> None:
    """Fail early if the address cannot be reached; Ray itself would try for minutes."""
    if found := re.fullmatch(r"(?:ray://)?(.+):(\d+)", address):
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=10).close()
