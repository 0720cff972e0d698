"""The check for Linux, on whose own calls ring buffers, core sharing and locks depend."""

from __future__ import annotations

import sys

from maris_fast.errors import ConfigError


def require_linux() -> None:
    """Raise ConfigError on any other system, before a call that is missing there fails."""
    if sys.platform != "linux":
        raise ConfigError(
            f"maris-fast runs on Linux, and this is {sys.platform}; use a Linux machine, a container or WSL 2"
        )
