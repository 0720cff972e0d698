"""Wait for another thread or process."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(true: Callable[[], object]) -> None:
    until = time.monotonic() + 60
    while not true():
        assert time.monotonic() < until
        time.sleep(0.02)
