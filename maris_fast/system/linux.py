"""The system that the program needs: ring buffers, core sharing and locks use Linux's own calls."""

from __future__ import annotations

import sys

from maris_fast.errors import ConfigError


def require_linux() -> None:
    """Raises ConfigError on any other system, before a call that is missing there does."""
    if sys.platform != "linux":
        raise ConfigError(
            f"maris-fast runs on Linux, and this is {sys.platform}; use a Linux machine, a container or WSL 2"
        )
